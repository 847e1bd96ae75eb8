"""Steps as small as their tensor asks for, in networks that came as ONNX; `small_scales` says why.

aimet-onnx has AIMET's limit in compiled code. So a small tensor is observed times a power of two, where the limit does
not bind, and its encodings, which are proportional to it, are divided by that again.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnx import GraphProto, numpy_helper

from bitladder.quantize.sim.onnx_layers import TensorReader, rows_of
from bitladder.quantize.sim.onnx_ranges import ranges_of, set_ranges
from bitladder.tasks.samples import Samples

__all__ = ["with_small_scales"]

LIMIT = 2.0**-23  # aimet-onnx's least scale
LEAST = 2.0**-60  # ours, as in small_scales, which another aimet-torch may not load

LEAST_RANGE, LEAST_FIXED = 2e-4, 0.01  # of its search by SQNR; of what begins at 0 by definition, such as a Relu
SLACK = 1.01  # ranges are rounded


@contextmanager
def with_small_scales(sim: Any, samples: Samples) -> Iterator[None]:
    """Give small weights their ranges, before the calibration that runs through them; small activations, after it."""
    weights = _fit_weights(sim)
    for one in weights:
        one.freeze_encodings()
    try:
        yield
    finally:
        for one in weights:
            one._is_encoding_frozen = False
    if _fit_activations(sim, samples) or weights:
        sim._adjust_weight_scales_against_overflow()  # which count in the scales before


def _fit_weights(sim: Any) -> list[Any]:
    found = []
    for tensor in sim.model.model.graph.initializer:
        quantizer = sim.qc_quantize_op_dict.get(tensor.name)
        if quantizer is None or not quantizer.enabled or quantizer.is_encoding_frozen():
            continue
        values = numpy_helper.to_array(tensor)
        peak = float(abs(values).max(initial=0))
        if 0 < peak < _limit(quantizer):
            # up to about 1, so that the limit still holds for channels that are next to nothing beside the largest
            factor = 2.0 ** -math.floor(math.log2(peak))
            quantizer.reset_encoding_stats()
            quantizer.update_encoding_stats(values * values.dtype.type(factor))
            _divide(quantizer, factor)
            found.append(quantizer)
    return found


def _fit_activations(sim: Any, samples: Samples) -> bool:
    used = [name for name in sim.activation_names if sim.qc_quantize_op_dict[name].enabled]
    found = {name: ranges_of(sim.qc_quantize_op_dict[name]) for name in used}
    before = {name: rows for name, rows in found.items() if rows is not None}
    small = {
        name: quantizer
        for name, rows in before.items()
        if not (quantizer := sim.qc_quantize_op_dict[name]).is_encoding_frozen()
        and rows[:, :2].abs().max() < _limit(quantizer)
    }
    if not small:
        return False
    own = {id(one): one for one in small.values()}  # tensors may share one
    for one in own.values():
        one.reset_encoding_stats()
    factor, zeros = LIMIT / LEAST, set(own)
    # Each sample tells the same of pads that a graph computes, and a pass over all takes as long as AIMET's own
    told = samples if _of_inputs(sim.model.model.graph) & small.keys() else samples.first(1)
    with _in_float(sim, used):
        read = TensorReader(sim.model.model, {name: name for name in small})
        for row in rows_of(told):
            for name, values in read(row).items():
                small[name].update_encoding_stats(values * values.dtype.type(factor))
                if values.any():
                    zeros.discard(id(small[name]))
    for name, one in small.items():
        if id(one) in zeros:  # the least step would make a bias overflow
            set_ranges(one, before[name])
        elif own.pop(id(one), None):
            _divide(one, factor)
    return True


def _of_inputs(graph: GraphProto) -> set[str]:
    """Name the tensors that depend on the graph's inputs."""
    found = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if not found.isdisjoint(node.input):
            found |= set(node.output)
    return found


@contextmanager
def _in_float(sim: Any, names: list[str]) -> Iterator[None]:
    quantizers = [sim.qc_quantize_op_dict[name] for name in names]
    for one in quantizers:
        one.enabled = False
    try:
        yield
    finally:
        for one in quantizers:
            one.enabled = True


def _limit(quantizer: Any) -> float:
    """Give what a tensor's largest value is under wherever a limit binds; above, nothing would change."""
    fixed = LEAST_FIXED if quantizer._encoding_min_max_fixed_vals else 0.0
    return max(LIMIT * 2**quantizer.bitwidth, LEAST_RANGE, fixed) * SLACK


def _divide(quantizer: Any, factor: float) -> None:
    quantizer.compute_encodings()
    rows = ranges_of(quantizer)
    assert rows is not None
    rows[:, :3] /= factor  # min, max, delta
    set_ranges(quantizer, rows)

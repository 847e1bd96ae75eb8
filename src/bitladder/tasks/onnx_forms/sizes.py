"""The sizes of a graph's inputs: set as a task asks, and the batch as the NPU takes it, one sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bitladder.errors import UserError

__all__ = ["inputs_of", "one_sample", "set_shapes", "sizes_of", "with_batch_of_one"]

TOLERANCE = 1e-3  # relative: sums of other batch sizes differ by less


def inputs_of(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Give the inputs that are no constants."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def sizes_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Give a tensor's sizes: a number, or the name of one that is free. Some exporters write a free one as -1."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]


def set_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], source: str) -> None:
    """Fix inputs' sizes, in place. Raise UserError where a name or a size does not fit the graph."""
    inputs = {value.name: value for value in inputs_of(proto)}
    for name, shape in shapes.items():
        if name not in inputs:
            raise UserError(f"task: shapes: {source} has no input {name!r}; it takes {list(inputs)}")
        own = sizes_of(inputs[name])
        numbers = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape)
        fits = numbers and (
            not inputs[name].type.tensor_type.HasField("shape")
            or (
                len(own) == len(shape)
                and all(one in (size, "?") or isinstance(one, str) for one, size in zip(own, shape, strict=True))
            )
        )
        if not fits:
            raise UserError(f"task: shapes: {name!r} of {source} is {own}, and {list(shape)} does not fit")
        _write(inputs[name], list(shape))
    if shapes:
        _forget(proto)


def with_batch_of_one(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give a graph whose inputs' first size, where it is free or more, is one."""
    single = onnx.ModelProto()
    single.CopyFrom(proto)
    for value in inputs_of(single):
        if sizes := sizes_of(value):
            _write(value, [1, *sizes[1:]])
    _forget(single)
    return single


def one_sample(proto: onnx.ModelProto, source: str, open_session: Callable[[bytes], Any]) -> onnx.ModelProto:
    """Give a graph that is for a larger batch for a single sample.

    Raises UserError where its outputs are then others: something in it counts on the larger batch.
    """
    batch, single = (
        max(int(sizes_of(value)[0]) for value in inputs_of(proto) if sizes_of(value)),
        with_batch_of_one(proto),
    )
    try:
        given = {value.name: _drawn(value) for value in inputs_of(proto)}
        expected = open_session(proto.SerializeToString()).run(None, given)
        session = open_session(single.SerializeToString())
        rows = [
            session.run(None, {name: values[row : row + 1] for name, values in given.items()}) for row in range(batch)
        ]
        same = all(
            np.allclose(np.concatenate(one), whole, TOLERANCE, TOLERANCE * np.abs(whole).max(initial=0))
            for one, whole in zip(zip(*rows, strict=True), expected, strict=True)
        )
    except Exception:  # ONNX Runtime's kinds of error share no base; all mean that it cannot be done
        same = False
    if not same:
        name = next(value.name for value in inputs_of(proto) if sizes_of(value)[:1] == [batch])
        raise UserError(
            f"task: {source}: {name!r} is for batches of {batch}, which it counts on; the NPU takes one sample at a"
            " time, so export it for a batch of one, or with a free first dimension"
        )
    return single


def _write(value: onnx.ValueInfoProto, sizes: list[Any]) -> None:
    kind = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, [None if one == "?" else one for one in sizes]))


def _forget(proto: onnx.ModelProto) -> None:
    """Drop what was written of the sizes inside, and of the outputs."""
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        if value.type.tensor_type.elem_type:
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))


def _drawn(value: onnx.ValueInfoProto) -> np.ndarray:
    sizes = [int(size) for size in sizes_of(value)]  # the name of a free one is no number: ValueError
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    generator = np.random.default_rng(0)
    return generator.normal(size=sizes).astype(kind) if kind == np.float32 else np.ones(sizes, kind)

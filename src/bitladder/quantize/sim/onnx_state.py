"""The weights and ranges of aimet-onnx's QuantSim, out and in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor

from bitladder.quantize.sim.onnx_block_weights import as_stored
from bitladder.quantize.sim.onnx_ranges import ranges_of, set_ranges
from bitladder.tasks.onnx_model import OnnxNetwork

__all__ = ["put_weights", "set_state", "state_of", "weights_of"]

WEIGHTS, ENCODINGS = "weights.", "encodings."  # what names in a saved sim begin with


def weights_of(sim: Any, network: OnnxNetwork) -> dict[str, np.ndarray]:
    """Give the weights that a sim has now, of those that the float network has."""
    own = network.tensors()
    return {one.name: numpy_helper.to_array(one) for one in sim.model.model.graph.initializer if one.name in own}


def put_weights(sim: Any, values: Mapping[str, np.ndarray]) -> None:
    """Put values into a sim's weights; its session is opened again where one has changed."""
    changed = False
    for tensor in sim.model.model.graph.initializer:
        if tensor.name in values and not np.array_equal(numpy_helper.to_array(tensor), values[tensor.name]):
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
            changed = True
    if changed:
        sim._rebuild_session()


def state_of(sim: Any, network: OnnxNetwork) -> dict[str, Tensor]:
    """Give weights and ranges, as a file holds them."""
    tensors = {f"{WEIGHTS}{name}": torch.from_numpy(values.copy()) for name, values in weights_of(sim, network).items()}
    for name, one in sim.qc_quantize_op_dict.items():
        rows = ranges_of(one)
        if rows is not None:
            tensors[f"{ENCODINGS}{name}"] = rows
    return tensors


def set_state(sim: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put in what `state_of` gave; what has no range there is not quantized."""
    weights = {name: values for name, values in tensors.items() if name.startswith(WEIGHTS)}
    put_weights(sim, {name.removeprefix(WEIGHTS): values.numpy() for name, values in weights.items()})
    for name, one in sim.qc_quantize_op_dict.items():
        rows = tensors.get(f"{ENCODINGS}{name}")
        one.enabled = rows is not None
        if rows is not None:
            as_stored(one, rows)
            set_ranges(one, rows)

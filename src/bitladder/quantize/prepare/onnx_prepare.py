"""Making a network that came as ONNX fit for aimet-onnx: what prepare.py does for a network of torch."""

import logging
from collections.abc import Sequence

import onnx
from onnx import numpy_helper
from torch import Tensor

from bitladder.errors import UserError
from bitladder.network.model import keep_folded
from bitladder.precision import OPSET
from bitladder.quantize.prepare.onnx_recurrent import write_steps
from bitladder.quantize.prepare.task_quantization import keep_task_quantization
from bitladder.tasks.onnx_forms.fold import fold_constants
from bitladder.tasks.onnx_forms.graph import opset_of, raise_opset
from bitladder.tasks.onnx_forms.normalize import separate_weights
from bitladder.tasks.onnx_forms.pads import write_pads
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.task import Quantization

__all__ = ["prepare_onnx", "quiet"]


def prepare_onnx(
    network: OnnxNetwork, sample: tuple[Tensor, ...], exclude: Sequence[str], quantization: Quantization
) -> OnnxNetwork:
    """Make a network fit for aimet-onnx: shapes for a batch of one, constants computed, opset 21, batch norms folded.

    Raises UserError where options are set that only a network of torch has, or the opset cannot be raised.
    """
    if exclude or quantization.define:
        option = "prepare.exclude" if exclude else "Quantization.define"
        raise UserError(f"{option}: {network.source} is ONNX and has no torch modules; use Quantization.exclude")
    quiet()
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

    proto = fold_constants(network.fixed(sample).proto)
    try:
        proto = raise_opset(proto)
    except ValueError as error:
        raise UserError(
            f"task: {network.source}: its opset {opset_of(proto)} cannot be raised to {OPSET}, the first with 4 and 16"
            f" bits ({error}); export it with opset 17 or newer"
        ) from None
    _constants_as_initializers(proto)
    _name_nodes(proto)
    write_pads(proto)
    separate_weights(proto)
    write_steps(proto)
    folded = fold_all_batch_norms_to_weight(proto)  # into the layer before a batch norm, and into the one after it
    prepared = OnnxNetwork(onnx.shape_inference.infer_shapes(proto, data_prop=True), network.source)
    keep_folded(prepared, any(folded))
    keep_task_quantization(prepared, quantization)
    return prepared


def _constants_as_initializers(proto: onnx.ModelProto) -> None:
    """Make initializers of Constant nodes: weights and bounds may come as either."""
    for node in list(proto.graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values = numpy_helper.to_array(node.attribute[0].t)
            proto.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            proto.graph.node.remove(node)


def _name_nodes(proto: onnx.ModelProto) -> None:
    taken = {node.name for node in proto.graph.node}
    for index, node in enumerate(proto.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            node.name = f"{name}_" if name in taken else name


def quiet() -> None:
    """Keep aimet-onnx's progress to itself: what matters of it we say ourselves."""
    from aimet_onnx.common.utils import AimetLogger

    AimetLogger.set_level_for_all_areas(logging.CRITICAL)

"""PReLUs as the NPU has them: not fused with the layer before, though AIMET leaves no quantizer between.

The NPU needs one there. Its range has to be seen: the PReLU's own range, divided by the smallest of its slopes, is too
wide by far. The slopes have one scale there, and the bits of the activations.
"""

import copy
from typing import TYPE_CHECKING, Any

from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel

if TYPE_CHECKING:
    from aimet_onnx.quantsim import QuantizationSimModel as OnnxQuantizationSimModel

__all__ = ["part_unfused_onnx", "part_unfused_torch"]


def part_unfused_torch(sim: QuantizationSimModel) -> None:
    """Give what a PReLU reads a quantizer of its own, and its slopes one for all, before calibration."""
    modules = dict(sim.model.named_modules())
    for operation, source in _pairs(sim):
        # the first part of a name is the network's class
        layer, before = (modules.get(one.dotted_name.partition(".")[2]) for one in (operation, source))
        if not isinstance(layer, QuantizationMixin) or not isinstance(before, QuantizationMixin):
            continue
        own: Any = layer.output_quantizers[0]
        if own is not None:
            if before.output_quantizers[0] is None:
                before.output_quantizers[0] = copy.deepcopy(own)
            layer.param_quantizers["weight"] = copy.deepcopy(own)  # all slopes have one scale there, of these bits


def part_unfused_onnx(sim: "OnnxQuantizationSimModel") -> None:
    """Do the same in a sim of aimet-onnx, where slopes have one scale as it is."""
    quantizers = sim.qc_quantize_op_dict
    for operation, source in _pairs(sim):
        own, before = (quantizers.get(one.outputs[0].name) for one in (operation, source))
        if own is not None and own.enabled and before is not None and not before.enabled:
            before.enabled = True


def _pairs(sim: Any) -> list[tuple[Any, Any]]:
    """Give each PReLU of AIMET's graph with the operation that it reads."""
    prelus = [one for one in sim.connected_graph.ordered_ops if one.type == "PRelu"]
    return [(one, one.inputs[0].producer) for one in prelus if one.inputs[0].producer is not None]

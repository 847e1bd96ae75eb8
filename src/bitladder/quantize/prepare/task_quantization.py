"""What a task asks of AIMET for its own network, carried with the network to where its QuantSims are built."""

import inspect
from pathlib import Path

from aimet_torch.nn import QuantizationMixin
from torch import nn

from bitladder.errors import UserError
from bitladder.network.model import output_names
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.source import user_code
from bitladder.tasks.task import Quantization

__all__ = ["define", "keep_task_quantization", "task_quantization_of"]

_QUANTIZATION = "bitladder_quantization"


def define(model: nn.Module, quantization: Quantization) -> list[nn.Module]:
    """Register the task's quantized definitions.

    Returns: the modules that AIMET must not look into, as there is a quantized definition of the whole: the task's, or
    AIMET's own, such as that of nn.MultiheadAttention.
    """
    if quantization.define:
        with user_code("Quantization.define()"):
            quantization.define()
    own = {
        kind
        for kind, quantized in QuantizationMixin.cls_to_qcls.items()
        if not quantized.__module__.startswith("aimet_torch")
    }
    known = QuantizationMixin.cls_to_qcls
    return [
        module
        for module in model.modules()
        if type(module) in own or (type(module) in known and any(module.children()))
    ]


def keep_task_quantization(model: nn.Module, quantization: Quantization) -> None:
    """Note on a prepared network what its QuantSims need to know.

    Raises UserError where the configuration, a layer to exclude or a tensor to tie is not there.
    """
    if quantization.config and not Path(quantization.config).is_file():
        raise UserError(f"task: Quantization.config: {quantization.config}: no such file")
    if isinstance(model, OnnxNetwork):
        kind, known = "node", [node.name for node in model.proto.graph.node]
        shown = known
    else:
        modules = dict(model.named_modules())
        kind, known = "layer", list(modules)
        shown = [name for name, module in modules.items() if name and not any(module.children())]
    for name in quantization.exclude:
        if name not in known:
            raise UserError(
                f"task: Quantization.exclude: there is no {kind} {name!r}; there are {', '.join(shown)[:300]}"
            )
    _check_tied(model, quantization)
    setattr(model, _QUANTIZATION, quantization)


def task_quantization_of(model: nn.Module) -> Quantization:
    """Give what was noted on a network; nothing, if nothing was."""
    return getattr(model, _QUANTIZATION, None) or Quantization()


def _check_tied(model: nn.Module, quantization: Quantization) -> None:
    if isinstance(model, OnnxNetwork):
        names = (list(model.inputs), list(model.outputs))
    else:
        names = (list(inspect.signature(model.forward).parameters), list(output_names(model) or ()))
    for pair in quantization.tied:
        for what, name, known in zip(("input", "output"), pair, names, strict=True):
            if name not in known:
                raise UserError(
                    f"task: Quantization.tied: the model has no {what} {name!r}; it has {', '.join(known)[:300]}"
                )

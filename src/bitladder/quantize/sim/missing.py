"""Quantizers that a QuantSim should have and has not: it runs without them, and tells nobody."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.errors import RefusedError
from bitladder.quantize.prepare.quantized import COMPARISONS
from bitladder.quantize.sim.hooks import hooked

__all__ = ["check_layers", "check_ranges", "computing_layers", "leave_unknown", "refusal", "without_tensors"]

SILENT = (nn.Identity, nn.Dropout, nn.Flatten, *COMPARISONS)
"""Layers that change no value, or give no number: AIMET leaves them as they are."""

SHOWN = 5


def check_layers(sim: QuantizationSimModel, exclude: Sequence[str] = ()) -> None:
    """Refuse a sim in which a layer, or the weight matrix of one, has no quantizer.

    Args:
        sim: as it was built.
        exclude: layers that the task wants in float.

    Raises RefusedError that names them.

    """
    missing = []
    for name, module in computing_layers(sim.model):
        if any(name == left or name.startswith(f"{left}.") for left in exclude):
            continue
        if not isinstance(module, QuantizationMixin):
            missing.append(f"{name} ({type(module).__name__})")
        elif _is_matrix(module) and module.param_quantizers["weight"] is None:
            missing.append(f"{name} (its weight)")
    if missing:
        raise RefusedError(
            f"task: the QuantSim has no quantizers in {_few(missing)}; register a quantized definition by"
            " Quantization.define, or say that they stay in float by Quantization.exclude"
        )


@contextmanager
def without_tensors(sim: QuantizationSimModel) -> Iterator[set[str]]:
    """Collect the layers that give no floating-point tensor while they run, such as one that halves a size."""
    found: set[str] = set()

    def listen(name: str, layer: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs = output if isinstance(output, list | tuple) else (output,)
            if not any(isinstance(value, Tensor) and value.is_floating_point() for value in outputs):
                found.add(name)

        return layer.register_forward_hook(hook)

    with hooked(listen(name, layer) for name, layer in computing_layers(sim.model)):
        yield found


def check_ranges(sim: QuantizationSimModel, plain: Collection[str] = ()) -> None:
    """Refuse a sim with quantizers that calibration has not reached. Raises RefusedError that names their layers.

    Args:
        sim: calibrated.
        plain: layers that give no floating-point tensor, and so need no range.

    """
    empty = []
    for name, module in computing_layers(sim.model):
        if isinstance(module, QuantizationMixin) and name not in plain:
            # those of inputs do not count: an input that is a plain number has no range
            quantizers = (*module.output_quantizers, *module.param_quantizers.values())
            if not all(quantizer.is_initialized() for quantizer in quantizers if quantizer):
                empty.append(name)
    if empty:
        raise RefusedError(
            f"task: calibration left no range in {_few(empty)}: no calibration sample runs through them; remove them"
            " from the model, or name them in Quantization.exclude"
        )


def leave_unknown(model: nn.Module, exclude: Sequence[str]) -> None:
    """Tell AIMET not to mind excluded layers of types that it does not know, which it would else refuse."""
    for name in exclude:
        for module in model.get_submodule(name).modules():
            known = (*QuantizationMixin.cls_to_qcls, *QuantizationMixin.qcls_to_cls)
            if not any(module.children()) and type(module) not in known:
                QuantizationMixin.ignore(type(module))


def refusal(model: nn.Module, error: BaseException, config: str | None) -> str:
    """Say in one line why AIMET built no sim: types without a quantized definition, with their layers."""
    text = " ".join(str(error).split())
    if "quantized module definition" not in text.lower():
        culprit = f"Quantization.config {config}" if config else "the model"
        return f"task: AIMET builds no QuantSim of {culprit} ({type(error).__name__}: {text[:300]})"
    unknown = [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if not any(module.children()) and str(type(module)) in text
    ]
    return (
        f"task: AIMET has no quantized definition of {_few(unknown)}; register one with"
        " @QuantizationMixin.implements in a function that Quantization.define names, or leave them in float by"
        " Quantization.exclude"
    )


def computing_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Give the modules that compute: leaves, and quantized modules, but not the quantizers in them."""
    for name, module in model.named_children():
        if isinstance(module, QuantizationMixin):
            yield name, module
        elif any(module.children()):
            yield from ((f"{name}.{inner}", layer) for inner, layer in computing_layers(module))
        elif type(module).forward is not nn.Module.forward and not isinstance(module, SILENT):
            yield name, module


def _is_matrix(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim > 1 and "weight" in getattr(module, "param_quantizers", {})


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

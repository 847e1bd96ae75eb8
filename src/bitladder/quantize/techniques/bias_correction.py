"""Bias correction: what quantization adds to a layer's mean output, taken off its bias (arXiv:1906.04721).

AIMET had it and took it out in version 2. Rounding shifts the mean of each channel, and a deep network of depthwise
convolutions adds the shifts up; a bias costs nothing to change.
"""

from dataclasses import replace
from typing import Any

import torch
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.torch_sim import calibrate
from bitladder.quantize.techniques.technique import BIAS, NotApplicable, Quantized, Setting, apply
from bitladder.tasks.samples import Samples, in_memory

__all__ = ["bias_correction", "channel_means", "correct_biases", "corrected_bias"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

BIAS_SAMPLES = 100  # run as one batch, so no more than memory takes


def bias_correction(setting: Setting, start: Quantized | None) -> Quantized:
    """Take off the biases what quantization adds to each channel's mean (arXiv:1906.04721)."""
    start = start or apply("min-max", setting, None)
    sim = start.copy_sim(setting)
    if not correct_biases(sim, start.model, setting.fit.first(BIAS_SAMPLES)):
        raise NotApplicable("no layer has a bias")
    calibrate(sim, setting.fit, setting.params.batch_size)
    return replace(start, sim=sim, techniques=(*start.techniques, BIAS))


def correct_biases(sim: QuantizationSimModel, reference: nn.Module, split: Samples) -> int:
    """Move the biases of a calibrated sim in place, layer after layer in one pass, each on what comes out of the last.

    Args:
        sim: its weight ranges are kept from then on, so that calibration does not move what was corrected for.
        reference: the same network in float.
        split: samples, run as one batch, since a mean over all of them is asked for.

    Returns: the number of layers; those without a bias are passed over.

    """
    layers: dict[str, Any] = {
        name: module
        for name, module in sim.model.named_modules()
        if isinstance(module, QuantizationMixin) and isinstance(module, LAYERS) and module.bias is not None
    }
    expected: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Tensor) -> None:
            expected.setdefault(name, channel_means(output, module))

        return hook

    def correct(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            if name in expected:  # a layer that runs more than once is corrected at its first
                module.bias.copy_(corrected_bias(module, inputs, expected.pop(name)))

        return hook

    inputs = tuple(in_memory(split).inputs.values())
    with torch.no_grad():
        with hooked(reference.get_submodule(name).register_forward_hook(note(name)) for name in layers):
            reference(*inputs)
        with hooked(layer.register_forward_pre_hook(correct(name)) for name, layer in layers.items()):
            sim.model(*inputs)
    for layer in layers.values():
        if layer.param_quantizers["weight"] is not None:
            layer.param_quantizers["weight"].allow_overwrite(False)
    return len(layers)


def corrected_bias(module: Any, inputs: tuple[Tensor, ...], expected: Tensor) -> Tensor:
    """Give the bias with which a quantized layer's outputs, before they are quantized, have the expected means."""
    with module._remove_output_quantizers():
        output = type(module).forward(module, *inputs)
    return module.bias + expected - channel_means(output, module)


def channel_means(output: Tensor, module: nn.Module) -> Tensor:
    """Give the mean of each channel: the last dimension of a linear layer, the second of a convolution."""
    channel = output.ndim - 1 if isinstance(module, nn.Linear) else 1
    return output.mean([dimension for dimension in range(output.ndim) if dimension != channel])

"""Bias correction: what quantization adds to a layer's mean output, taken off its bias (arXiv:1906.04721).

AIMET had it and took it out in version 2. Rounding shifts the mean of each channel, and a deep network of depthwise
convolutions adds the shifts up; a bias costs nothing to change.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aimet_torch.nn import QuantizationMixin
from torch import Tensor, nn

from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.lockstep import Layer, in_lockstep
from bitladder.quantize.sim.sim import Sim
from bitladder.quantize.techniques.technique import BIAS, NotApplicable, Quantized, Setting, apply

__all__ = ["ChannelMeans", "bias_correction", "correct_biases", "corrected_bias"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

BIAS_SAMPLES = 100  # more move a mean little


def bias_correction(setting: Setting, start: Quantized | None) -> Quantized:
    """Take off the biases what quantization adds to each channel's mean (arXiv:1906.04721)."""
    start = start or apply("min-max", setting, None)
    sim = start.copy_sim()
    batches = sim.batches(setting.fit.first(BIAS_SAMPLES), setting.params.batch_size)
    if not correct_biases(sim, batches, setting.work):
        raise NotApplicable("no layer has a bias")
    sim.calibrate(setting.fit, setting.params.batch_size)
    return replace(start, sim=sim, techniques=(*start.techniques, BIAS))


def correct_biases(sim: Sim, batches: Batches, folder: Path) -> int:
    """Move the biases of a calibrated sim in place, layer after layer, each on what comes out of the last.

    Args:
        sim: its weight ranges are kept from then on, so that calibration does not move what was corrected for.
        batches: the samples over which means are taken.
        folder: for activations that memory should not hold.

    Returns: the number of layers; those without a bias are passed over.

    """
    with sim.as_modules() as (reference, model):
        return _correct(reference, model, batches, folder)


def _correct(reference: nn.Module, model: nn.Module, batches: Batches, folder: Path) -> int:
    layers: dict[str, Any] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizationMixin) and isinstance(module, LAYERS) and module.bias is not None
    }

    def correct(layer: Layer) -> None:
        module, expected = layers[layer.name], ChannelMeans(layers[layer.name])
        for seen in layer.batches():
            expected.add(seen.float_output)
        module.bias.copy_(corrected_bias(module, layer.inputs(), expected.value()))

    in_lockstep(reference, model, layers, batches, folder, correct)
    for layer in layers.values():
        if layer.param_quantizers["weight"] is not None:
            layer.param_quantizers["weight"].allow_overwrite(False)
    return len(layers)


def corrected_bias(module: Any, batches: Iterable[tuple[Any, ...]], expected: Tensor) -> Tensor:
    """Give the bias with which a quantized layer's outputs, before they are quantized, have the expected means."""
    found = ChannelMeans(module)
    with module._remove_output_quantizers():
        for inputs in batches:
            found.add(type(module).forward(module, *inputs))
    return module.bias + (expected - found.value()).to(module.bias.dtype)


class ChannelMeans:
    """The mean of each channel of a layer's output, over batches: a linear layer's last dimension, else the second."""

    def __init__(self, module: nn.Module) -> None:
        """Begin with no batch."""
        self._linear, self._sum, self._count = isinstance(module, nn.Linear), Tensor(), 0

    def add(self, output: Tensor) -> None:
        """Take a batch's output."""
        channel = output.ndim - 1 if self._linear else 1
        count = output.numel() // output.shape[channel]
        means = output.mean([dimension for dimension in range(output.ndim) if dimension != channel])
        total = means.double() * count  # in double: batches add no error of their own
        self._sum, self._count = total + self._sum if self._count else total, self._count + count

    def value(self) -> Tensor:
        """Give the means, in double."""
        return self._sum / self._count

"""GPTQ: weights rounded one after the other, each time with the rest of its output's made up for it (arXiv:2210.17323).

AIMET has none (2.42). It asks only for the second moments of what comes to a layer, and for no gradients, so it takes
seconds where AdaRound takes minutes. Four things are added. The target is what the float layer makes of the float
network's activations, so that a layer makes up for those before it (arXiv:2504.02692); regularized towards the float
weights when there are few samples. A layer whose output is added to another's, at the end of a residual block, makes up
for that one's error too. The scale of each channel, or of each block of its weights, is searched for, by the error of
its output. And what comes out is gone over again, the scales and then a weight at a time, which can only lower that
error.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.affine import AffineQuantizerBase
from torch import Tensor, nn

from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.block_weights import divided
from bitladder.quantize.sim.lockstep import Layer, in_lockstep
from bitladder.quantize.sim.sim import Sim
from bitladder.quantize.techniques.bias_correction import ChannelMeans, corrected_bias
from bitladder.quantize.techniques.gptq_scales import Blocks, Channels
from bitladder.quantize.techniques.observe import Positions, added_to, positions, windows
from bitladder.quantize.techniques.technique import (
    BIAS,
    GPTQ,
    NotApplicable,
    Quantized,
    Setting,
    apply,
    with_float_weights,
)

__all__ = ["gptq", "round_weights"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)

DAMPING = 0.01  # of the mean second moment, put on each: arXiv:2210.17323's own

PULL, PULL_SAMPLES = 1.0, 356  # towards the float weights, in the same measure; the more, the fewer the samples

SWEEPS = 4  # over all weights, after they were rounded

BLOCK = 128  # weights after which what is made up goes to all that are left


def gptq(setting: Setting, start: Quantized | None) -> Quantized:
    """Each weight rounded, and what that does to the layer's output made up by those after it (arXiv:2210.17323)."""
    start = with_float_weights(setting, start or apply("min-max", setting, None))
    sim, fit = start.copy_sim(), setting.fit.first(setting.params.gptq.samples)
    if not round_weights(sim, sim.batches(fit, setting.params.batch_size), setting.seed, setting.work):
        raise NotApplicable("no layer has weights that are quantized on a symmetric grid")
    sim.calibrate(setting.fit, setting.params.batch_size)
    others = tuple(name for name in start.techniques if name != BIAS)  # it finds biases of its own
    return replace(start, sim=sim, techniques=(*others, GPTQ))


def round_weights(sim: Sim, batches: Batches, seed: int, folder: Path) -> int:
    """Set weights, their ranges and biases of a calibrated sim in place, in one pass from layer to layer.

    Args:
        sim: its weight ranges are kept from then on. The weights of its float network are rounded.
        batches: of the samples.
        seed: of the positions that are looked at, together with the layer's name.
        folder: for activations that memory should not hold.

    Returns: the number of layers. Those with weights that are quantized with an offset are passed over.

    """
    with sim.as_modules() as (reference, model):
        return _round_layers(reference, model, batches, seed, folder)


def _round_layers(reference: nn.Module, model: nn.Module, batches: Batches, seed: int, folder: Path) -> int:
    modules: dict[str, Any] = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if _is_ours(module)}
    found = added_to(reference, batches.one(), layers)
    pull = PULL * max(1.0, PULL_SAMPLES / len(batches.split))

    def fit(layer: Layer) -> None:
        module = layers[layer.name]
        moments, means = _Moments(), ChannelMeans(module)
        places = Positions(module, seed, layer.name, batches)
        for seen in layer.batches():
            drawn, output = places.draw(seen.float_output), seen.float_output
            x, float_x = (windows(module, one[0], drawn) for one in (seen.inputs, seen.float_inputs))
            missing = x[:, :0]
            if seen.added is not None:
                missing = seen.added[0] - seen.added[1]
                output, missing = output + missing, positions(module, missing, drawn)
            means.add(output)
            moments.add(x, float_x, missing)
        _round(module, reference.get_parameter(f"{layer.name}.weight"), moments, pull)
        if module.bias is not None:
            module.bias.copy_(corrected_bias(module, layer.inputs(), means.value()))

    in_lockstep(reference, model, layers, batches, folder, fit, found)
    return len(layers)


def _is_ours(module: nn.Module) -> bool:
    if not (isinstance(module, QuantizationMixin) and isinstance(module, LAYERS)):
        return False
    layer: Any = module
    quantizer = layer.param_quantizers["weight"]
    return (
        isinstance(quantizer, AffineQuantizerBase)
        and quantizer.symmetric
        and (divided(quantizer) > 0 or quantizer.min.numel() in (1, len(layer.weight)))
    )


class _Moments:
    """Second moments of a layer's inputs, at some positions, with themselves and with what its output should follow.

    That is the float layer's inputs, and what is missing of what the output is added to; each groups x values x
    positions.
    """

    def __init__(self) -> None:
        """Begin with no batch."""
        self._count, self._sums, self._products = 0, Tensor(), Tensor()

    def add(self, x: Tensor, float_x: Tensor, missing: Tensor) -> None:
        """Take a batch's; `missing` may have no values."""
        weights = x.shape[1]
        both = torch.cat([x, float_x, missing], 1).double()
        if not self._count:
            self._sums = both.new_zeros(*both.shape[:2], 1)
            self._products = both.new_zeros(*both.shape[:2], weights)
        self._count += both.shape[2]
        self._sums += both.sum(2, keepdim=True)
        self._products.baddbmm_(both, both[:, :weights].transpose(1, 2))

    def value(self, about_means: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Give each one's moments with the inputs: the inputs', the float layer's inputs', what is missing."""
        moments, weights = self._products / self._count, self._products.shape[2]
        if about_means:
            means = self._sums / self._count
            moments.baddbmm_(means, means[:, :weights].transpose(1, 2), alpha=-1)
        return moments[:, :weights], moments[:, weights : 2 * weights], moments[:, 2 * weights :]


def _round(module: Any, weight: Tensor, seen: _Moments, pull: float) -> None:
    """Put the weights that come nearest to the float layer's output into a quantized layer, and their range.

    What is missing of that which the output is added to counts as the float layer's.
    """
    quantizer = module.param_quantizers["weight"]
    low, high, by_channel = int(quantizer.qmin), int(quantizer.qmax), quantizer.min.numel() > 1
    block = divided(quantizer)
    moments, float_moments, missing = seen.value(about_means=module.bias is not None)  # which makes up for means
    groups = len(moments)
    flat = weight.double().reshape(groups, len(weight) // groups, -1)
    size = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12).reshape(-1, 1, 1)
    one = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
    wanted = flat @ float_moments + pull * size * flat
    if missing.numel():
        wanted = wanted + missing
    target = torch.linalg.solve(moments + pull * size * one, wanted, left=False)
    damped = moments + DAMPING * size * one
    least = quantizer.get_scale().double()
    if block:
        least = least.reshape(1, len(weight), -1).repeat_interleave(block, 2)
    else:
        least = least.expand(len(weight), *[1] * (weight.ndim - 1)).reshape(groups, -1, 1)
    scales = Blocks(block) if block else Channels(by_channel)
    scale = scales.best(target, damped, least, low, high)
    rounded = _rounded(target, damped, scale, low, high)
    rounded, scale = _refined(rounded, target, damped, scale, low, high, scales)
    module.weight.copy_(rounded.reshape(weight.shape))
    ends = scales.stored(scale)
    quantizer.set_range(*((end * ends).to(weight.dtype).reshape(quantizer.min.shape) for end in (low, high)))
    quantizer.allow_overwrite(False)  # calibration must not move the grid that the weights were put on


def _rounded(target: Tensor, moments: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Round the weights, groups x outputs x weights, those with the largest inputs first."""
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rows, columns = order.unsqueeze(2).expand_as(moments), order.unsqueeze(1).expand_as(moments)
    sorted_moments = moments.gather(1, rows).gather(2, columns)
    makes_up = torch.linalg.cholesky(torch.linalg.inv(sorted_moments), upper=True)
    index = order.unsqueeze(1).expand_as(target)
    left, done = target.gather(2, index), torch.empty_like(target)
    scale = scale.expand_as(target).gather(2, index)
    for start in range(0, target.shape[2], BLOCK):
        end = min(start + BLOCK, target.shape[2])
        errors = torch.empty_like(left[:, :, start:end])
        for i in range(start, end):
            value = left[:, :, i : i + 1]
            step = scale[:, :, i : i + 1]
            done[:, :, i : i + 1] = (value / step).round().clamp(low, high) * step
            error = (value - done[:, :, i : i + 1]) / makes_up[:, i, i].reshape(-1, 1, 1)
            left[:, :, i + 1 : end] -= error * makes_up[:, i : i + 1, i + 1 : end]
            errors[:, :, i - start : i - start + 1] = error
        left[:, :, end:] -= errors @ makes_up[:, start:end, end:]
    return torch.empty_like(target).scatter(2, index, done)


def _refined(
    rounded: Tensor, target: Tensor, moments: Tensor, scale: Tensor, low: int, high: int, scales: Channels | Blocks
) -> tuple[Tensor, Tensor]:
    """Give rounded weights and scales after SWEEPS of coordinate descent on the error of the layer's output."""
    sizes = moments.diagonal(dim1=1, dim2=2)
    for _ in range(SWEEPS):
        steps = (rounded / scale).round()
        scale = scales.least_squares(steps, target, moments, scale)
        rounded, wide = steps * scale, scale.expand_as(target)
        pulls = (target - rounded) @ moments
        for start in range(0, target.shape[2], BLOCK):
            end = min(start + BLOCK, target.shape[2])
            before, inside = rounded[:, :, start:end].clone(), pulls[:, :, start:end].clone()
            for i in range(start, end):
                old, step = rounded[:, :, i : i + 1], wide[:, :, i : i + 1]
                best = ((old + inside[:, :, i - start].unsqueeze(2) / sizes[:, i].reshape(-1, 1, 1)) / step).round()
                moved = best.clamp(low, high) * step
                inside -= (moved - old) * moments[:, i : i + 1, start:end]
                rounded[:, :, i : i + 1] = moved
            pulls -= (rounded[:, :, start:end] - before) @ moments[:, start:end]
    return rounded, scale

"""GPTQ: weights rounded one after the other, each time with the rest of its output's made up for it (arXiv:2210.17323).

AIMET has none (2.42). It asks only for the second moments of what comes to a layer, and for no gradients, so it takes
seconds where AdaRound takes minutes. Four things are added. The target is what the float layer makes of the float
network's activations, so that a layer makes up for those before it (arXiv:2504.02692); regularized towards the float
weights when there are few samples. A layer whose output is added to another's, at the end of a residual
block, makes up for that one's error too. Each channel's scale is searched for, by the error of its output. And what
comes out is gone over again, the scales and then a weight at a time, which can only lower that error.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.torch_sim import calibrate
from bitladder.quantize.techniques.bias_correction import channel_means, corrected_bias
from bitladder.quantize.techniques.observe import added_to, positions, windows
from bitladder.quantize.techniques.technique import (
    BIAS,
    GPTQ,
    NotApplicable,
    Quantized,
    Setting,
    apply,
    with_float_weights,
)
from bitladder.tasks.samples import Samples, in_memory

__all__ = ["gptq", "round_weights"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)

DAMPING = 0.01  # of the mean second moment, put on each: arXiv:2210.17323's own

PULL, PULL_SAMPLES = 1.0, 356  # towards the float weights, in the same measure; the more, the fewer the samples

SCALES = tuple(1 - 0.04 * step for step in range(16))  # tried, as shares of the min-max one

SWEEPS = 4  # over all weights, after they were rounded

BLOCK = 128  # weights after which what is made up goes to all that are left


class _Seen(NamedTuple):
    """What the float network showed of a layer, at some positions."""

    inputs: Tensor  # groups x weights x positions
    means: Tensor  # of its output's channels
    beside: tuple[Tensor, Tensor] | None  # what its output is added to, groups x outputs x positions; its means


def gptq(setting: Setting, start: Quantized | None) -> Quantized:
    """Each weight rounded, and what that does to the layer's output made up by those after it (arXiv:2210.17323)."""
    start = with_float_weights(setting, start or apply("min-max", setting, None))
    sim = start.copy_sim(setting)
    if not round_weights(sim, start.model, setting.fit.first(setting.params.gptq.samples), setting.seed):
        raise NotApplicable("no layer has weights that are quantized on a symmetric grid")
    calibrate(sim, setting.fit, setting.params.batch_size)
    others = tuple(name for name in start.techniques if name != BIAS)  # it finds biases of its own
    return replace(start, sim=sim, techniques=(*others, GPTQ))


def round_weights(sim: QuantizationSimModel, reference: nn.Module, split: Samples, seed: int) -> int:
    """Set weights, their ranges and biases of a calibrated sim in place, in one pass from layer to layer.

    Args:
        sim: its weight ranges are kept from then on.
        reference: the same network in float, whose weights are rounded.
        split: samples, run as one batch.
        seed: of the positions that are looked at, together with the layer's name.

    Returns: the number of layers. Those with weights that are quantized by blocks or with an offset are passed over.

    """
    modules: dict[str, Any] = dict(sim.model.named_modules())
    layers = {name: module for name, module in modules.items() if _is_ours(module)}
    inputs = tuple(in_memory(split).inputs.values())
    found = added_to(reference, tuple(values[:1] for values in inputs), layers)
    summands = {name: other for name, other in found.items() if other in modules}
    seen: dict[str, _Seen] = {}
    waiting: dict[str, Tensor] = {}  # by the layer whose output is added to it
    pull = PULL * max(1.0, PULL_SAMPLES / len(split))

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            waiting[name] = output.as_subclass(Tensor)

        return hook

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name not in seen:
                found, means = windows(module, inputs[0], seed, name), channel_means(output, module)
                other, beside = waiting.pop(name, None), None
                if other is not None and other.shape == output.shape:  # it may have no samples
                    beside = positions(module, other, seed, name), channel_means(other, module)
                seen[name] = _Seen(found, means, beside)

        return hook

    def fit(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
            other = waiting.pop(name, None)
            if name not in seen:  # a layer that runs more than once is rounded at its first
                return
            float_inputs, means, beside = seen.pop(name)
            found = windows(module, inputs[0].as_subclass(Tensor), seed, name)
            missing = None
            if other is not None and beside is not None:
                missing = beside[0] - positions(module, other, seed, name)
                means = means + beside[1] - channel_means(other, module)
            _round(module, reference.get_parameter(f"{name}.weight"), found, float_inputs, missing, pull)
            if module.bias is not None:
                module.bias.copy_(corrected_bias(module, inputs, means))

        return hook

    def kept(network: nn.Module) -> Any:
        return hooked(
            network.get_submodule(other).register_forward_hook(keep(name)) for name, other in summands.items()
        )

    with torch.no_grad():
        with (
            kept(reference),
            hooked(reference.get_submodule(name).register_forward_hook(note(name)) for name in layers),
        ):
            reference(*inputs)
        waiting.clear()
        with (
            kept(sim.model),
            hooked(layer.register_forward_pre_hook(fit(name)) for name, layer in layers.items()),
        ):
            sim.model(*inputs)
    return len(layers)


def _is_ours(module: nn.Module) -> bool:
    if not (isinstance(module, QuantizationMixin) and isinstance(module, LAYERS)):
        return False
    layer: Any = module
    quantizer = layer.param_quantizers["weight"]
    return (
        isinstance(quantizer, AffineQuantizerBase)
        and quantizer.symmetric
        and quantizer.block_size is None
        and quantizer.min.numel() in (1, len(layer.weight))
    )


def _round(
    module: Any, weight: Tensor, inputs: Tensor, float_inputs: Tensor, missing: Tensor | None, pull: float
) -> None:
    """Put the weights that come nearest to the float layer's output into a quantized layer, and their range.

    What is `missing` of that which the output is added to, groups x outputs x positions, counts as the float layer's.
    """
    quantizer = module.param_quantizers["weight"]
    groups, by_channel = len(inputs), quantizer.min.numel() > 1
    low, high = int(quantizer.qmin), int(quantizer.qmax)
    x, float_x = inputs.double(), float_inputs.double()
    besides = None if missing is None else missing.double()
    if module.bias is not None:  # which makes up for means
        for values in (x, float_x, besides):
            if values is not None:
                values -= values.mean(2, keepdim=True)
    flat = weight.double().reshape(groups, len(weight) // groups, -1)
    moments = x @ x.transpose(1, 2) / x.shape[2]
    size = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12).reshape(-1, 1, 1)
    one = torch.eye(moments.shape[1], dtype=moments.dtype)
    wanted = flat @ (float_x @ x.transpose(1, 2) / x.shape[2]) + pull * size * flat
    if besides is not None:
        wanted = wanted + besides @ x.transpose(1, 2) / x.shape[2]
    target = torch.linalg.solve(moments + pull * size * one, wanted, left=False)
    damped = moments + DAMPING * size * one
    least = quantizer.get_scale().double().expand(len(weight), *[1] * (weight.ndim - 1)).reshape(groups, -1, 1)
    scale = _best_scale(target, damped, least, low, high, by_channel)
    rounded = _rounded(target, damped, scale, low, high)
    rounded, scale = _refined(rounded, target, damped, scale, low, high, by_channel)
    module.weight.copy_(rounded.reshape(weight.shape))
    ends = scale.reshape(-1) if by_channel else scale.reshape(-1)[:1]
    quantizer.set_range(*((end * ends).to(weight.dtype).reshape(quantizer.min.shape) for end in (low, high)))
    quantizer.allow_overwrite(False)  # calibration must not move the grid that the weights were put on


def _best_scale(target: Tensor, moments: Tensor, scale: Tensor, low: int, high: int, by_channel: bool) -> Tensor:
    """Give the share of each channel's scale at which rounding to the nearest costs its output least."""
    best, least = scale, torch.full_like(scale, torch.inf)
    for share in SCALES:
        away = (target / (share * scale)).round().clamp(low, high) * (share * scale) - target
        error = ((away @ moments) * away).sum(2, keepdim=True)
        error = error if by_channel else error.sum().expand_as(error)
        best, least = torch.where(error < least, share * scale, best), torch.minimum(error, least)
    return best


def _rounded(target: Tensor, moments: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Round the weights, groups x outputs x weights, those with the largest inputs first."""
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rows, columns = order.unsqueeze(2).expand_as(moments), order.unsqueeze(1).expand_as(moments)
    sorted_moments = moments.gather(1, rows).gather(2, columns)
    makes_up = torch.linalg.cholesky(torch.linalg.inv(sorted_moments), upper=True)
    index = order.unsqueeze(1).expand_as(target)
    left, done = target.gather(2, index), torch.empty_like(target)
    for start in range(0, target.shape[2], BLOCK):
        end = min(start + BLOCK, target.shape[2])
        errors = torch.empty_like(left[:, :, start:end])
        for i in range(start, end):
            value = left[:, :, i : i + 1]
            done[:, :, i : i + 1] = (value / scale).round().clamp(low, high) * scale
            error = (value - done[:, :, i : i + 1]) / makes_up[:, i, i].reshape(-1, 1, 1)
            left[:, :, i + 1 : end] -= error * makes_up[:, i : i + 1, i + 1 : end]
            errors[:, :, i - start : i - start + 1] = error
        left[:, :, end:] -= errors @ makes_up[:, start:end, end:]
    return torch.empty_like(target).scatter(2, index, done)


def _refined(
    rounded: Tensor, target: Tensor, moments: Tensor, scale: Tensor, low: int, high: int, by_channel: bool
) -> tuple[Tensor, Tensor]:
    """Give rounded weights and scales after SWEEPS of coordinate descent on the error of the layer's output."""
    sizes = moments.diagonal(dim1=1, dim2=2)
    for _ in range(SWEEPS):
        steps = (rounded / scale).round()
        toward, own = ((values @ moments * steps).sum(2, keepdim=True) for values in (target, steps))
        if not by_channel:
            toward, own = toward.sum().expand_as(scale), own.sum().expand_as(scale)
        scale = torch.where((toward > 0) & (own > 0), toward / own, scale)  # least squares
        rounded = steps * scale
        pulls = (target - rounded) @ moments
        for start in range(0, target.shape[2], BLOCK):
            end = min(start + BLOCK, target.shape[2])
            before, inside = rounded[:, :, start:end].clone(), pulls[:, :, start:end].clone()
            for i in range(start, end):
                old = rounded[:, :, i : i + 1]
                best = ((old + inside[:, :, i - start].unsqueeze(2) / sizes[:, i].reshape(-1, 1, 1)) / scale).round()
                moved = best.clamp(low, high) * scale
                inside -= (moved - old) * moments[:, i : i + 1, start:end]
                rounded[:, :, i : i + 1] = moved
            pulls -= (rounded[:, :, start:end] - before) @ moments[:, start:end]
    return rounded, scale

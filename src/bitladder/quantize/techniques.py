"""PTQ techniques, from cheap to costly: each takes a quantized network a step on, or says why it can do nothing."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.bn_reestimation import reestimate_bn_stats
from aimet_torch.cross_layer_equalization import equalize_model
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.seq_mse import apply_seq_mse
from torch import Tensor, nn

from bitladder.model import carry_notes
from bitladder.params import TECHNIQUES, PtqParams
from bitladder.precision import Precision
from bitladder.quantize import adaround as by_gradient
from bitladder.quantize import gptq as by_moments
from bitladder.quantize.bias import correct_biases
from bitladder.quantize.simulation import build_sim, calibrate, copy_sim, keep_relu, set_layers, swap_relu6
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.task import Split

__all__ = ["GPTQ", "ORDER", "Idle", "Quantized", "Setting", "apply", "gptq", "with_biases"]

SEQ_MSE_BITS = 4
"""AIMET's SeqMSE passes over wider weights without a word."""

BIAS, GPTQ, SEQ_MSE, ADAROUND = "bias-correction", "gptq", "seq-mse", "adaround"

RANGES = ("min-max", "sqnr")

OF_FLOAT = (*RANGES, "bn-reestimation", "cle")
"""What is in a float network, or in how ranges are found, and so in every sim that is built anew from them.

All others change a sim. In a new one biases are corrected anew, and the rest is undone: weights are rounded once.
"""

BIAS_SAMPLES = 100  # run as one batch, so no more than memory takes

BN = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class Setting:
    """What one rung is quantized from.

    `model` is prepared, batch norms folded; `unfolded` builds the same with its batch norms; `fit` holds the samples
    that techniques may look at; `layers` the layers whose bits are not the rung's own; `work` is scratch, where killed
    work goes on from.
    """

    model: nn.Module
    unfolded: Callable[[], nn.Module]
    sample: tuple[Tensor, ...]
    fit: Split
    precision: Precision
    config: str
    params: PtqParams
    seed: int
    work: Path
    layers: Mapping[str, Precision] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantized:
    """A calibrated sim, the float network that it was made from, and the techniques that led to it."""

    sim: Any
    model: nn.Module
    ranges: str
    techniques: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as `ptq:bn-fold+min-max+adaround`."""
        return "ptq:" + "+".join(("bn-fold", *self.techniques))

    def copy_sim(self, setting: Setting, float_biases: bool = False) -> QuantizationSimModel:
        """Give a copy of the sim for the next technique to change; with the float network's biases, if asked for."""
        sim = copy_sim(self.sim, self.model, setting.sample, setting.precision, setting.config)
        own = dict(sim.model.named_parameters())
        for name, values in self.model.named_parameters() if float_biases else ():
            if name.endswith(".bias"):
                own[name].data.copy_(values)
        return sim


class Idle(Exception):  # noqa: N818
    """A technique that can do nothing here; its text says why."""


def calibrated(setting: Setting, model: nn.Module, ranges: str, techniques: tuple[str, ...]) -> Quantized:
    """Build a sim of a float network with the rung's bits, and find its ranges."""
    sim = build_sim(model, setting.sample, setting.precision, setting.config, ranges)
    set_layers(sim, setting.layers)
    calibrate(sim, setting.fit, setting.params.batch_size)
    return Quantized(sim, model, ranges, techniques)


def min_max(setting: Setting, start: Quantized | None) -> Quantized:
    """Ranges from the least to the greatest value seen."""
    return calibrated(setting, start.model if start else setting.model, "min-max", ("min-max",))


def sqnr(setting: Setting, start: Quantized | None) -> Quantized:
    """Ranges that clip outliers where that costs less (AIMET's tf_enhanced)."""
    return calibrated(setting, start.model if start else setting.model, "sqnr", ("sqnr",))


def bias_correction(setting: Setting, start: Quantized | None) -> Quantized:
    """Take off the biases what quantization adds to each channel's mean (arXiv:1906.04721)."""
    start = start or min_max(setting, None)
    sim = start.copy_sim(setting)
    if not correct_biases(sim, start.model, setting.fit.first(BIAS_SAMPLES)):
        raise Idle("no layer has a bias")
    calibrate(sim, setting.fit, setting.params.batch_size)
    return replace(start, sim=sim, techniques=(*start.techniques, BIAS))


def bn_reestimation(setting: Setting, start: Quantized | None) -> Quantized:
    """Batch norms' statistics moved by what quantization does to them, then folded (arXiv:2201.08442).

    AIMET puts in the statistics of the samples themselves, which a few hundred do not give as training did: so it is
    the change from the float network's to the quantized one's, on the same samples, that is put in.

    Scaling a channel by its batch norm scales its weights' grid alike, so that the statistics of the unfolded network
    under quantization are those of the folded one.
    """
    start = start or min_max(setting, None)
    unfolded = setting.unfolded()
    if not any(isinstance(module, BN) for module in unfolded.modules()):
        raise Idle("the network has no batch norm")
    if "cle" in start.techniques:
        raise Idle("cle has changed the layers that the batch norms belong to")
    noisy = build_sim(unfolded, setting.sample, setting.precision, setting.config, start.ranges)
    set_layers(noisy, setting.layers)
    calibrate(noisy, setting.fit, setting.params.batch_size)
    batches = list(setting.fit.batches(setting.params.batch_size))
    found, expected = (_statistics(model, batches) for model in (noisy.model, copy.deepcopy(unfolded)))
    for name, module in unfolded.named_modules():
        if name in expected:
            (mean, variance), (float_mean, float_variance) = found[name], expected[name]
            module.running_mean += mean - float_mean
            module.running_var *= variance / float_variance.clamp_min(module.eps)
    fold_all_batch_norms(unfolded, None, dummy_input=setting.sample)
    model = _copy(setting.model)
    model.load_state_dict(unfolded.state_dict())
    return _on_float(setting, start, model, "bn-reestimation")


def cle(setting: Setting, start: Quantized | None) -> Quantized:
    """Scales moved between neighbouring layers, so that their channels' ranges are alike (arXiv:1906.04721).

    AIMET passes over layers with ReLU6 between them, so ReLU takes its place; whether the metric allows that shows in
    the score of the whole.
    """
    start = start or min_max(setting, None)
    model = _copy(start.model)
    before = copy.deepcopy(model.state_dict())
    swapped = swap_relu6(model)
    equalize_model(model, dummy_input=setting.sample)
    if all(torch.equal(values, before[name]) for name, values in model.state_dict().items()):
        raise Idle("there are no two layers with only a ReLU between them")
    if swapped:
        keep_relu(model)
    return _on_float(setting, start, model, "cle")


def gptq(setting: Setting, start: Quantized | None) -> Quantized:
    """Each weight rounded, and what that does to the layer's output made up by those after it (arXiv:2210.17323)."""
    start = _with_float_weights(setting, start or min_max(setting, None))
    sim = start.copy_sim(setting)
    if not by_moments.round_weights(sim, start.model, setting.fit.first(setting.params.gptq.samples), setting.seed):
        raise Idle("no layer has weights that are quantized on a symmetric grid")
    calibrate(sim, setting.fit, setting.params.batch_size)
    others = tuple(name for name in start.techniques if name != BIAS)  # it finds biases of its own
    return replace(start, sim=sim, techniques=(*others, GPTQ))


def seq_mse(setting: Setting, start: Quantized | None) -> Quantized:
    """Layer by layer, the weight ranges whose outputs are nearest to the float layer's."""
    bits = {setting.precision.weights, *(precision.weights for precision in setting.layers.values())}
    if min(bits) > SEQ_MSE_BITS:
        raise Idle(f"it is for weights of at most {SEQ_MSE_BITS} bits")
    start = _with_float_weights(setting, start or min_max(setting, None))
    sim, own = start.copy_sim(setting, float_biases=True), setting.params.seq_mse
    fit, size = setting.fit.first(own.samples), setting.params.batch_size
    # AIMET stacks the batches, so they must be alike: whole ones, or all samples as one
    few = list((fit.first(len(fit) // size * size) if len(fit) > size else fit).batches(size))
    folder = setting.work / "seq-mse"
    folder.mkdir(parents=True, exist_ok=True)
    apply_seq_mse(sim, few, own.candidates, lambda model, inputs: model(*inputs), cache_dir=str(folder))
    return with_biases(setting, start, sim, SEQ_MSE)


def adaround(setting: Setting, start: Quantized | None) -> Quantized:
    """Each weight rounded up or down as the layer's output asks (arXiv:2004.10568)."""
    start = _with_float_weights(setting, start or min_max(setting, None), but=SEQ_MSE)
    sim, own = start.copy_sim(setting, float_biases=True), setting.params.adaround
    folder = setting.work / "adaround"
    by_gradient.round_weights(sim, start.model, setting.fit.first(own.samples), own, setting.seed, folder)
    return with_biases(setting, start, sim, ADAROUND)


ORDER = tuple(TECHNIQUES)
"""All names, from cheap to costly."""


def apply(name: str, setting: Setting, start: Quantized | None) -> Quantized:
    """Put a technique on top of what was reached before. Raises Idle where it can do nothing."""
    if isinstance(setting.model, OnnxNetwork) and name not in RANGES:
        raise Idle("the model came as ONNX, and this is done on a network of PyTorch's")
    technique: Callable[[Setting, Quantized | None], Quantized] = resolve_name(TECHNIQUES[name])
    return technique(setting, start)


def with_biases(setting: Setting, start: Quantized, sim: QuantizationSimModel, technique: str) -> Quantized:
    """Calibrate a sim whose weights have been changed; biases that were corrected before are corrected anew."""
    calibrate(sim, setting.fit, setting.params.batch_size)
    others = tuple(name for name in start.techniques if name != BIAS)
    done = replace(start, sim=sim, techniques=(*others, technique))
    return bias_correction(setting, done) if BIAS in start.techniques else done


def _on_float(setting: Setting, start: Quantized, model: nn.Module, technique: str) -> Quantized:
    """Calibrate a float network that was changed; biases that were corrected before are corrected anew."""
    kept = tuple(name for name in start.techniques if name in OF_FLOAT)
    done = calibrated(setting, model, start.ranges, (*kept, technique))
    return bias_correction(setting, done) if BIAS in start.techniques else done


def _with_float_weights(setting: Setting, start: Quantized, but: str = "") -> Quantized:
    """Undo what rounded the weights before, `but` this technique: weights are rounded once."""
    kept = tuple(name for name in start.techniques if name in (*OF_FLOAT, BIAS))
    if not set(start.techniques) - {*kept, but}:
        return start
    return calibrated(setting, start.model, start.ranges, kept)


def _copy(network: nn.Module) -> nn.Module:
    copied = copy.deepcopy(network)
    carry_notes(network, copied)
    return copied


def _statistics(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Give mean and variance of what comes to each batch norm; the network's own statistics are replaced."""
    reestimate_bn_stats(model, batches, len(batches), lambda model, inputs: model(*inputs))
    return {
        name: (module.running_mean, module.running_var)
        for name, module in model.named_modules()
        if isinstance(module, BN) and module.running_mean is not None and module.running_var is not None
    }

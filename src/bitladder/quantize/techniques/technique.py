"""What PTQ techniques share: each takes a quantized network one step further, or says why it does not apply."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name

from torch import Tensor, nn

from bitladder.network.model import carry_notes, has_folded
from bitladder.params import TECHNIQUES, PtqParams
from bitladder.precision import Precision
from bitladder.quantize.sim.sim import Sim, build_sim
from bitladder.tasks.samples import Samples

__all__ = [
    "ADAROUND",
    "BIAS",
    "GPTQ",
    "ORDER",
    "RANGES",
    "SEQ_MSE",
    "NotApplicable",
    "Quantized",
    "Setting",
    "apply",
    "calibrated",
    "copy_network",
    "on_float",
    "with_biases",
    "with_float_weights",
]

BIAS, GPTQ, SEQ_MSE, ADAROUND = "bias-correction", "gptq", "seq-mse", "adaround"

RANGES = ("min-max", "sqnr")

CHANGES_FLOAT_MODEL = (*RANGES, "bn-reestimation", "cle")
"""What is in a float network, or in how ranges are found, and so in every sim that is built anew from them.

All others change a sim. In a new one biases are corrected anew, and the rest is undone: weights are rounded once.
"""


@dataclass(frozen=True)
class Setting:
    """What one rung is quantized from.

    `model` is prepared, batch norms folded; `unfolded` builds the same with its batch norms; `fit` holds the samples
    that techniques may look at; `layers` the layers whose bits are not the rung's own; `block` how many input channels
    share a scale, None: all; `work` is scratch, where killed work goes on from.
    """

    model: nn.Module
    unfolded: Callable[[], nn.Module]
    sample: tuple[Tensor, ...]
    fit: Samples
    precision: Precision
    config: str
    params: PtqParams
    seed: int
    work: Path
    layers: Mapping[str, Precision] = field(default_factory=dict)
    block: int | None = None


@dataclass(frozen=True)
class Quantized:
    """A calibrated sim, the float network that it was made from, and the techniques that led to it."""

    sim: Sim
    model: nn.Module
    ranges: str
    techniques: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as `ptq:bn-fold+min-max+adaround`; without `bn-fold` where no batch norm was folded."""
        folded = ("bn-fold",) if has_folded(self.model) else ()
        return "ptq:" + "+".join((*folded, *self.techniques))

    def copy_sim(self, float_biases: bool = False) -> Sim:
        """Give a copy of the sim for the next technique to change; with the float network's biases, if asked for."""
        sim = self.sim.copy()
        if float_biases:
            sim.put_back_biases()
        return sim


class NotApplicable(Exception):  # noqa: N818
    """A technique that can do nothing here; its text says why."""


def calibrated(setting: Setting, model: nn.Module, ranges: str, techniques: tuple[str, ...]) -> Quantized:
    """Build a sim of a float network with the rung's bits, and find its ranges."""
    sim = build_sim(model, setting.sample, setting.precision, setting.config, ranges)
    sim.set_layers(setting.layers)
    sim.set_blocks(setting.block)
    sim.calibrate(setting.fit, setting.params.batch_size)
    return Quantized(sim, model, ranges, techniques)


ORDER = tuple(TECHNIQUES)
"""All names, from cheap to costly."""


def apply(name: str, setting: Setting, start: Quantized | None) -> Quantized:
    """Put a technique on top of what was reached before. Raises NotApplicable where it can do nothing."""
    technique: Callable[[Setting, Quantized | None], Quantized] = resolve_name(TECHNIQUES[name])
    return technique(setting, start)


def with_biases(setting: Setting, start: Quantized, sim: Sim, technique: str) -> Quantized:
    """Calibrate a sim whose weights have been changed; biases that were corrected before are corrected anew."""
    sim.calibrate(setting.fit, setting.params.batch_size)
    others = tuple(name for name in start.techniques if name != BIAS)
    done = replace(start, sim=sim, techniques=(*others, technique))
    return apply(BIAS, setting, done) if BIAS in start.techniques else done


def on_float(setting: Setting, start: Quantized, model: nn.Module, technique: str) -> Quantized:
    """Calibrate a float network that was changed; biases that were corrected before are corrected anew."""
    kept = tuple(name for name in start.techniques if name in CHANGES_FLOAT_MODEL)
    done = calibrated(setting, model, start.ranges, (*kept, technique))
    return apply(BIAS, setting, done) if BIAS in start.techniques else done


def with_float_weights(setting: Setting, start: Quantized, but: str = "") -> Quantized:
    """Undo what rounded the weights before, `but` this technique: weights are rounded once."""
    kept = tuple(name for name in start.techniques if name in (*CHANGES_FLOAT_MODEL, BIAS))
    if not set(start.techniques) - {*kept, but}:
        return start
    return calibrated(setting, start.model, start.ranges, kept)


def copy_network(network: nn.Module) -> nn.Module:
    """Copy a float network with what was noted on it."""
    copied = copy.deepcopy(network)
    carry_notes(network, copied)
    return copied

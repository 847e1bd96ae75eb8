"""Chains of techniques, each put on top of the one before, and tried on samples that none of them has seen."""

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from bitladder.network.model import sample_inputs
from bitladder.network.placement import on_device, placed
from bitladder.params import Params
from bitladder.paths import PREPARED, TRAINED
from bitladder.quantize.prepare.prepare import load_prepared, load_unfolded
from bitladder.quantize.techniques.technique import NotApplicable, Quantized, Setting, apply
from bitladder.quantize.trial import Trial, Try, divide, trier
from bitladder.tasks.samples import held
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import Task

__all__ = ["Attempt", "Chains", "load_chains"]


@dataclass(frozen=True)
class Attempt:
    """What came of a technique, and in how many seconds.

    `trial` is None where there are no samples to try it on, or where it is not applicable, for the reason given.
    """

    trial: Trial | None = None
    seconds: float = 0.0
    not_applicable: str | None = None


class Chains:
    """Quantizes a rung by chains of techniques. The same chain comes to the same bytes, wherever."""

    def __init__(self, setting: Setting, try_out: Try | None = None) -> None:
        """Take what to quantize, and what compares a sim with FP32 on samples that no technique has seen."""
        self.setting, self.try_out = setting, try_out
        self._reached: dict[tuple[str, ...], Quantized] = {}

    def reach(self, names: tuple[str, ...]) -> Quantized:
        """Apply techniques in their order; of what was reached before, the last is kept. Raises NotApplicable."""
        if names not in self._reached:
            start = self.reach(names[:-1]) if names[1:] else None
            # a folder of its own: killed work goes on only from what the same techniques left
            setting = replace(self.setting, work=self.setting.work / "+".join(names))
            self._reached[names] = apply(names[-1], setting, start)
        return self._reached[names]

    def attempt(self, base: tuple[str, ...], name: str) -> Attempt:
        """Put a technique on top of others, and try what comes out."""
        if base:
            self._reached = {base: self.reach(base)}
        start = perf_counter()
        try:
            candidate = self.reach((*base, name))
        except NotApplicable as reason:
            return Attempt(not_applicable=str(reason))
        trial = self.try_out(candidate.sim.model) if self.try_out else None
        return Attempt(trial, round(perf_counter() - start, 1))


def load_chains(params: Params, rung: str, task: Task, work: Path, scratch: Path) -> tuple[Chains, Try]:
    """Load what the stages before have left in build/; give what tries a sim, too.

    Where all calibration samples are fitted to, no technique is tried.

    Args:
        params: of the pipeline.
        rung: its name.
        task: the user's.
        work: where killed work goes on from.
        scratch: for FP32's outputs.

    """
    calibration = load_samples(task, params, "calibration")
    own, sample, exclude = params.ptq_of(rung), sample_inputs(calibration), params.prepare.exclude
    fit, rest = map(held, divide(calibration, params, rung))
    model = load_prepared(task, sample, PREPARED, exclude)
    setting = Setting(
        model=placed(model),
        unfolded=lambda: load_unfolded(task, sample, TRAINED, PREPARED, exclude),
        sample=on_device(sample),
        fit=fit,
        precision=params.ladder[rung].precision,
        config=params.soc.quantsim_config,
        params=own,
        seed=params.seed,
        work=work,
        layers=params.ladder[rung].layer_precisions,
        block=params.ladder[rung].weights_block,
    )
    try_out = trier(task.metric, model, rest if len(rest) else fit, params.evaluate.batch_size, scratch)
    return Chains(setting, try_out if len(rest) else None), try_out

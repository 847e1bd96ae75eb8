"""Post-training quantization of one rung: the techniques that params.yaml lists, or the cheapest that is enough."""

from dataclasses import dataclass
from time import perf_counter

from torch import nn

from bitladder.errors import UserError
from bitladder.network.model import sample_inputs
from bitladder.network.placement import on_device, placed
from bitladder.params import Params
from bitladder.paths import PREPARED, TASK, TRAINED, RungFiles, samples
from bitladder.quantize.mixed import raise_layers
from bitladder.quantize.prepare.prepare import load_prepared, load_unfolded
from bitladder.quantize.techniques.technique import ORDER, NotApplicable, Quantized, Setting, apply
from bitladder.quantize.trial import Trial, trier
from bitladder.quantize.trial import Try as TryOut
from bitladder.records import HeldOut, Try
from bitladder.running.files import write_json
from bitladder.running.resume import fingerprint, workspace
from bitladder.tasks.samples import Samples, held
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import Task

__all__ = ["RungResult", "divide", "quantize", "quantize_rung"]


@dataclass(frozen=True)
class RungResult:
    """A quantized rung, beside the prepared network in FP32.

    `tries` is what was tried; `raised` the layers of a mixed rung that were given more bits; `held_out` what the rung
    comes to on calibration samples.
    """

    quantized: Quantized
    model: nn.Module
    tries: list[Try]
    raised: dict[str, str]
    held_out: HeldOut


def quantize_rung(params: Params, rung: str, task: Task) -> RungResult:
    """Quantize a rung from what the stages before have left in build/.

    The seconds of each try go to build/notes/<rung>/ptq-seconds.json, which is no output of DVC's, since they are never
    twice the same.
    """
    calibration = load_samples(task, params, "calibration")
    own, sample, exclude = params.ptq_of(rung), sample_inputs(calibration), params.prepare.exclude
    fit, rest = map(held, divide(calibration, params, rung))
    model = load_prepared(task, sample, PREPARED, exclude)
    inputs = (PREPARED, TRAINED, samples("calibration"), TASK)
    config, seed = params.soc.quantsim_config, params.seed
    values = (params.task, params.prepare, params.compute.bits, params.ladder[rung], own, config, seed)
    key = fingerprint(*values, files=inputs)
    with workspace(f"ptq-{rung}", key) as work:
        setting = Setting(
            model=placed(model),
            unfolded=lambda: load_unfolded(task, sample, TRAINED, PREPARED, exclude),
            sample=on_device(sample),
            fit=fit,
            precision=params.ladder[rung].precision,
            config=config,
            params=own,
            seed=seed,
            work=work,
            layers=params.ladder[rung].layer_precisions,
        )
        try_out = trier(task.metric, model, rest if len(rest) else fit, params.evaluate.batch_size, work)
        quantized, tries, seconds = quantize(setting, try_out if len(rest) else None)
        raised: dict[str, str] = {}
        if mixed := params.ladder[rung].mixed:
            quantized, raised = raise_layers(quantized, setting, mixed, try_out)
        found = try_out(quantized.sim.model).found
    write_json(RungFiles(rung).notes / "ptq-seconds.json", seconds)
    held_out = HeldOut(samples=found.samples, fitted=not len(rest), value=found.value, drop=found.drop)
    return RungResult(quantized, model, tries, raised, held_out)


def quantize(setting: Setting, try_out: TryOut | None = None) -> tuple[Quantized, list[Try], dict[str, float]]:
    """Quantize a prepared network by `setting.params.techniques`.

    A list is applied in its order. `auto` goes through all from cheap to costly, and keeps what does better by more
    than chance. It stops at the first whose drop is within what ptq allows: where that one is not kept, the cheaper one
    is as good, as far as these samples tell.

    Args:
        setting: what to quantize, and how.
        try_out: compares a sim with FP32 on samples that no technique has seen; `auto` needs it.

    Returns: the quantized network, what was tried, and the seconds of each.

    """
    auto = setting.params.techniques == "auto"
    names = ORDER if auto else tuple(setting.params.techniques)
    best: Quantized | None = None
    standing: Trial | None = None
    tries, seconds = [], {}
    for name in names:
        start = perf_counter()
        try:
            candidate = apply(name, setting, best)
        except NotApplicable as reason:
            tries.append(Try(technique=name, kept=False, not_applicable=str(reason)))
            continue
        trial = try_out(candidate.sim.model) if try_out else None
        kept = not auto or standing is None or (trial is not None and trial.displaces(standing))
        if trial:
            found = trial.found
            tries.append(Try(technique=name, value=found.value, drop=found.drop, sqnr_db=found.sqnr_db, kept=kept))
        else:
            tries.append(Try(technique=name, kept=kept))
        seconds[name] = round(perf_counter() - start, 1)
        if kept:
            best, standing = candidate, trial
        if auto and trial and trial.is_enough(setting.params.max_drop, setting.params.max_relative_drop):
            break
    if best is None:  # all that was listed can do nothing here
        best = apply(ORDER[0], setting, None)
    return best, tries, seconds


def divide(calibration: Samples, params: Params, rung: str) -> tuple[Samples, Samples]:
    """Give the samples that a rung's techniques are fitted to, and those that they are scored on.

    Raises UserError where none are left to score on, and the rung's params ask for scores.
    """
    own = params.ptq_of(rung)
    rest = calibration.after(own.samples)
    if not len(rest) and (own.techniques == "auto" or params.ladder[rung].mixed):
        raise UserError(
            f"ptq.samples: {own.samples} leaves none of the {len(calibration)} calibration samples to score {rung} on;"
            " lower it, or give the task a larger calibration split"
        )
    return calibration.first(own.samples), rest

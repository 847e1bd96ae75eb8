"""Post-training quantization of one rung: the techniques that params.yaml lists, or the cheapest that is enough."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from torch import nn

from bitladder.params import Params, PtqParams
from bitladder.paths import PREPARED, TASK, TRAINED, RungFiles, samples
from bitladder.quantize.chains import Attempt, Chains, load_chains
from bitladder.quantize.mixed import raise_layers
from bitladder.quantize.ptq_cluster import over_cluster
from bitladder.quantize.techniques.technique import ORDER, Quantized, Setting
from bitladder.quantize.trial import Trial
from bitladder.quantize.trial import Try as TryOut
from bitladder.records import HeldOut, Try
from bitladder.running.files import write_json
from bitladder.running.resume import fingerprint, workspace
from bitladder.tasks.task import Task

__all__ = ["RungResult", "quantize", "quantize_rung"]


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
    own, inputs = params.ptq_of(rung), (PREPARED, TRAINED, samples("calibration"), TASK)
    config, seed = params.soc.quantsim_config, params.seed
    values = (params.task, params.prepare, params.compute.bits, params.ladder[rung], own, config, seed)
    key = fingerprint(*values, files=inputs)
    with workspace(f"ptq-{rung}", key) as work:
        chains, try_out = load_chains(params, rung, task, work, work)
        # a list is put on top of each other, each technique on what the one before it made
        ahead = params.compute.cluster and own.techniques == "auto"
        with over_cluster(params, rung, chains, inputs) if ahead else nullcontext(chains.attempt) as attempt:
            names, tries, seconds = _choose(own, attempt)
        quantized = chains.reach(names)
        raised: dict[str, str] = {}
        if mixed := params.ladder[rung].mixed:
            quantized, raised = raise_layers(quantized, chains.setting, mixed, try_out)
        found = try_out(quantized.sim.model).found
    write_json(RungFiles(rung).notes / "ptq-seconds.json", seconds)
    held_out = HeldOut(samples=found.samples, fitted=chains.try_out is None, value=found.value, drop=found.drop)
    return RungResult(quantized, chains.setting.model, tries, raised, held_out)


def quantize(setting: Setting, try_out: TryOut | None = None) -> tuple[Quantized, list[Try], dict[str, float]]:
    """Quantize a prepared network by `setting.params.techniques`.

    Args:
        setting: what to quantize, and how.
        try_out: compares a sim with FP32 on samples that no technique has seen; `auto` needs it.

    Returns: the quantized network, what was tried, and the seconds of each.

    """
    chains = Chains(setting, try_out)
    names, tries, seconds = _choose(setting.params, chains.attempt)
    return chains.reach(names), tries, seconds


def _choose(
    params: PtqParams, attempt: Callable[[tuple[str, ...], str], Attempt]
) -> tuple[tuple[str, ...], list[Try], dict[str, float]]:
    """Choose techniques: those of a list that are applicable or, with `auto`, those that are worth it.

    `auto` goes through all from cheap to costly, and keeps what does better by more than chance. It stops at the first
    whose drop is within what ptq allows: where that one is not kept, the cheaper one is as good, as far as these
    samples tell.
    """
    auto = params.techniques == "auto"
    kept: tuple[str, ...] = ()
    standing: Trial | None = None
    tries, seconds = [], {}
    for name in ORDER if auto else tuple(params.techniques):
        came = attempt(kept, name)
        if came.not_applicable:
            tries.append(Try(technique=name, kept=False, not_applicable=came.not_applicable))
            continue
        trial = came.trial
        better = not auto or standing is None or (trial is not None and trial.displaces(standing))
        if trial:
            found = trial.found
            tries.append(Try(technique=name, value=found.value, drop=found.drop, sqnr_db=found.sqnr_db, kept=better))
        else:
            tries.append(Try(technique=name, kept=better))
        seconds[name] = came.seconds
        if better:
            kept, standing = (*kept, name), trial
        if auto and trial and trial.is_enough(params.max_drop, params.max_relative_drop):
            break
    return kept or ORDER[:1], tries, seconds  # where all that was listed can do nothing, ranges still must be found

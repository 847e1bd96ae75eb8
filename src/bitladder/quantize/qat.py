"""Quantization-aware training of one rung, from PTQ's encodings on."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitladder.network.devices import find_devices, is_main
from bitladder.network.evaluate import run_batch
from bitladder.network.model import build_model, sample_inputs
from bitladder.network.scoring import save_score, score
from bitladder.network.training import Epoch, Recipe, fit, rank
from bitladder.params import Params
from bitladder.paths import TASK, TRAINED, RungFiles, samples
from bitladder.quantize.distill import distilled
from bitladder.quantize.sim.lean import plain_tensors
from bitladder.quantize.sim.restore import restore
from bitladder.quantize.sim.sim import Sim
from bitladder.records import Evaluation, read_record
from bitladder.running.determinism import seed_all
from bitladder.running.resume import fingerprint, load_state, save_state, workspace
from bitladder.statistics.paired import gain
from bitladder.tasks.outputs import as_returned
from bitladder.tasks.samples import SPLITS, Samples
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import Task, load_task

__all__ = ["QatResult", "train_quantized", "train_rung"]

State = Mapping[str, Any]


@dataclass(frozen=True)
class QatResult:
    """Which state the sim was left in: `best` 0 is PTQ's own; `history[i]` is the state after i epochs."""

    best: int
    history: list[Epoch]


def train_rung(params: Params, rung: str) -> tuple[Evaluation | None, list[dict[str, Any]]]:
    """Train a rung from where PTQ left it, and write the trained sim and its outputs.

    Of several processes that train together only the main one writes.

    Returns: the metrics/eval record, None where no epoch beat PTQ (then nothing is written); the history's rows.
    """
    seed_all(params.seed)
    task, bits = load_task(params.task.factory, params.task.args), params.ladder[rung].precision
    files, paths = RungFiles(rung), {name: samples(name) for name in SPLITS}
    splits = {name: load_samples(task, params, name) for name in SPLITS}
    sample = sample_inputs(splits["calibration"])
    sim, model = restore(params, rung, task, sample, files.ptq_sim)
    tried = read_record(Evaluation, files.ptq_metrics).held_out
    assert tried is not None  # every rung after PTQ has it
    unseen = splits["calibration"].after(len(splits["calibration"]) - tried.samples)  # all, if PTQ was fitted to all
    recipe = Recipe(**params.qat.model_dump(exclude={"when", "distill", "processes"}), seed=params.seed)
    key = fingerprint(
        params.task,
        recipe,
        params.qat.distill,
        params.compute.bits,
        len(unseen),
        files=(*paths.values(), files.ptq_sim, TASK),
    )
    with workspace(f"qat-{rung}", key, is_main()) as work:
        result = train_quantized(
            sim,
            task,
            (splits["train"], unseen),
            recipe,
            params.evaluate.batch_size,
            work,
            (model, params.qat.distill),
        )
        history = [vars(epoch) for epoch in result.history]
        if result.best == 0 or not is_main():
            return None, history
        fp32, size = build_model(task, TRAINED), params.evaluate.batch_size
        found = score(sim.model, splits["evaluation"], task.metric, size, f"qat {bits}", fp32, work=work)
    sim.save(files.sim)
    save_score(files.scores, found)
    return found.comparison.record(task.metric, "qat", bits.weights, bits.activations), history


def train_quantized(
    sim: Sim,
    task: Task,
    splits: tuple[Samples, Samples],
    recipe: Recipe,
    batch_size: int,
    folder: Path,
    teacher: tuple[nn.Module, float] | None = None,
) -> QatResult:
    """Train a calibrated sim in place: weights and ranges. Leave it in its best state.

    Args:
        sim: with PTQ's encodings.
        task: loss and metric.
        splits: what to train on; what to choose the best epoch by. Neither is the evaluation split, and the latter
            should be none of what PTQ was fitted to, or PTQ's own state has the better of it.
        recipe: of the training.
        batch_size: for scoring.
        folder: where a killed run finds what it has done.
        teacher: the FP32 network to distil from, and its part of the loss, 0 to 1.

    Batch norms are folded by then, and the network trains in evaluation mode: there are no statistics to move, and
    dropout does not blur what quantization does. States are ranked by the metric, and by the loss where the metric
    ties. PTQ's own state takes part, and the best one must beat it on the scoring split by more than chance.

    """
    train, held_out = splits
    score_epoch = _scorer(sim, task, held_out, batch_size)
    path = folder / "best.pt"
    kept = load_state(path)
    untrained = kept["ptq"] if kept else copy.deepcopy(sim.model.state_dict())
    if kept:
        start, best = Epoch(**kept["start"]), Epoch(**kept["epoch"])
    else:
        start = best = Epoch(0, None, **score_epoch(sim.model))

    def keep(epoch: Epoch) -> None:
        nonlocal best
        if epoch is start or rank(task, epoch) > rank(task, best):
            best = epoch
            if is_main():
                state = {"start": vars(start), "epoch": vars(best), "model": sim.model.state_dict()}
                save_state(path, {**state, "ptq": untrained})

    if not kept:
        keep(start)
    loss = distilled(teacher[0], task, train, teacher[1], batch_size) if teacher and teacher[1] else None
    with plain_tensors():
        ranges = [parameter for _, quantizer in sim.aimet.named_quantizers() for parameter in quantizer.parameters()]
        history = fit(sim.model, task, train, recipe, folder, score_epoch, keep, False, ranges, loss)
    state = load_state(path)
    assert state is not None
    find_devices().wait()  # all have read it before the first one clears it away
    if best.epoch and not _displaces(sim, state["model"], untrained, task, held_out, batch_size):
        best = start
    sim.model.load_state_dict(state["model"] if best.epoch else untrained)
    return QatResult(best.epoch, [start, *history])


def _displaces(sim: Sim, trained: State, untrained: State, task: Task, samples: Samples, batch_size: int) -> bool:
    """Whether a trained state does better than PTQ's by more than a standard error, or as well with a lower loss."""
    scores = []
    for state in (untrained, trained):
        sim.model.load_state_dict(state)
        scores.append(score(sim.model, samples, task.metric, batch_size, "score").scores)
    gained, error = gain(scores[0], scores[1], task.metric.higher_is_better)
    return gained > error or gained == error == 0


def _scorer(sim: Sim, task: Task, samples: Samples, batch_size: int) -> Callable[[nn.Module], Mapping[str, float]]:
    before = _ranges(sim)

    def score(model: nn.Module) -> dict[str, float]:
        metric, total = task.metric.state(), 0.0
        model.eval()
        with torch.no_grad():
            for inputs, targets in samples.batches(batch_size):
                outputs = run_batch(model, inputs)
                metric.update(outputs, targets)
                total += task.loss(as_returned(outputs), targets).item() * len(next(iter(inputs.values())))
        drifts = [_drift(*pair) for pair in zip(before, _ranges(sim), strict=True)]
        return {
            "value": metric.value(),
            "loss": total / len(samples),
            "range_drift_mean": sum(drifts) / len(drifts),
            "range_drift_max": max(drifts),
        }

    return score


def _ranges(sim: Sim) -> list[tuple[Tensor, Tensor]]:
    found = [(quantizer.get_min(), quantizer.get_max()) for _, quantizer in sim.aimet.named_quantizers()]
    return [(low.detach().clone().cpu(), high.detach().clone().cpu()) for low, high in found if low is not None]


def _drift(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> float:
    """Give the larger move of a range's two ends as a share of its width; the mean over channels."""
    moves = torch.maximum(*(abs(new - old) for new, old in zip(after, before, strict=True)))
    return (moves / (before[1] - before[0])).mean().item()

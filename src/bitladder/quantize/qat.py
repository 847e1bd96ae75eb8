"""Quantization-aware training of one rung, from PTQ's encodings on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aimet_torch.quantsim import QuantizationSimModel
from torch import nn

from bitladder.evaluate import predict
from bitladder.resume import load_state, save_state
from bitladder.tasks.task import Split, Task, as_returned
from bitladder.training import Epoch, Recipe, fit

__all__ = ["QatResult", "train_quantized"]


@dataclass(frozen=True)
class QatResult:
    """Which state the sim was left in: `best` 0 is PTQ's own; `history[i]` is the state after i epochs."""

    best: int
    history: list[Epoch]


def train_quantized(
    sim: QuantizationSimModel,
    task: Task,
    splits: tuple[Split, Split],
    recipe: Recipe,
    batch_size: int,
    workspace: Path,
) -> QatResult:
    """Train a calibrated sim in place: weights and ranges. Leave it in its best state.

    Args:
        sim: with PTQ's encodings.
        task: loss and metric.
        splits: what to train on; what to choose the best epoch by, neither of them the evaluation split.
        recipe: of the training.
        batch_size: for scoring.
        workspace: where a killed run finds what it has done.

    States are ranked by the metric, and by the loss where the metric ties. PTQ's own state takes part, so the
    result is never worse than PTQ on the scoring split.

    """
    train, held_out = splits
    score = _scorer(task, held_out, batch_size)
    path = workspace / "best.pt"
    kept = load_state(path)
    if kept:
        start, best = Epoch(**kept["start"]), Epoch(**kept["epoch"])
    else:
        start = best = Epoch(0, None, *score(sim.model))
        save_state(path, {"start": vars(start), "epoch": vars(best), "model": sim.model.state_dict()})

    def keep_best(epoch: Epoch) -> None:
        nonlocal best
        if _rank(task, epoch) > _rank(task, best):
            best = epoch
            save_state(path, {"start": vars(start), "epoch": vars(best), "model": sim.model.state_dict()})

    history = [start, *fit(sim.model, task, train, recipe, workspace, score, keep_best, train_mode=False)]
    state = load_state(path)
    assert state is not None
    sim.model.load_state_dict(state["model"])
    return QatResult(best.epoch, history)


def _scorer(task: Task, split: Split, batch_size: int) -> Callable[[nn.Module], tuple[float, float]]:
    def score(model: nn.Module) -> tuple[float, float]:
        outputs = predict(model, split, batch_size, "score")
        loss = task.loss(as_returned(outputs), split.targets).item()
        return task.metric(outputs, split.targets), loss

    return score


def _rank(task: Task, epoch: Epoch) -> tuple[float, float]:
    assert epoch.value is not None and epoch.loss is not None
    return (epoch.value if task.metric.higher_is_better else -epoch.value), -epoch.loss

"""Quantization-aware training of one rung, from PTQ's encodings on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimet_torch.quantsim import QuantizationSimModel
from torch import nn

from bitladder.determinism import seed_all
from bitladder.evaluate import compare, predict
from bitladder.files import load_tensors, save_tensors
from bitladder.model import load_split, sample_inputs
from bitladder.params import Params
from bitladder.quantize.restore import restore
from bitladder.quantize.simulation import save_sim
from bitladder.resume import fingerprint, load_state, save_state, workspace
from bitladder.tasks.task import Split, Task, as_returned, load_task
from bitladder.training import Epoch, Recipe, fit

__all__ = ["QatResult", "train_quantized", "train_rung"]


@dataclass(frozen=True)
class QatResult:
    """Which state the sim was left in: `best` 0 is PTQ's own; `history[i]` is the state after i epochs."""

    best: int
    history: list[Epoch]


def train_rung(
    params: Params, rung: str, source: Path, folder: Path
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Train a rung from what PTQ left in `source`, and write the trained sim and its answers to `folder`.

    Returns: the metrics/eval record, None where no epoch beat PTQ (then nothing is written); the history's rows.
    """
    seed_all(params.seed)
    task, bits = load_task(params.task.factory, params.task.args), params.ladder[rung].precision
    paths = {name: Path(f"build/data/{name}.safetensors") for name in ("train", "calibration", "evaluation")}
    splits = {name: load_split(path) for name, path in paths.items()}
    sample = sample_inputs(splits["calibration"])
    sim, _ = restore(params, rung, task, sample, source / "sim.safetensors")
    recipe = Recipe(**params.qat.model_dump(exclude={"when"}), seed=params.seed)
    key = fingerprint(
        params.task,
        recipe,
        params.compute,
        files=(*paths.values(), source / "sim.safetensors", Path("build/task.json")),
    )
    with workspace(f"qat-{rung}", key) as work:
        result = train_quantized(
            sim, task, (splits["train"], splits["calibration"]), recipe, params.evaluate.batch_size, work
        )
    history = [vars(epoch) for epoch in result.history]
    if result.best == 0:
        return None, history
    outputs = predict(sim.model, splits["evaluation"], params.evaluate.batch_size, f"qat {bits}")
    reference = load_tensors(Path("build/baseline/outputs.safetensors"))
    comparison = compare(task.metric, outputs, reference, splits["evaluation"].targets)
    save_sim(folder / "sim.safetensors", sim)
    save_tensors(folder / "outputs.safetensors", outputs)
    return comparison.record(task.metric, "qat", bits.weights, bits.activations), history


def train_quantized(
    sim: QuantizationSimModel,
    task: Task,
    splits: tuple[Split, Split],
    recipe: Recipe,
    batch_size: int,
    folder: Path,
) -> QatResult:
    """Train a calibrated sim in place: weights and ranges. Leave it in its best state.

    Args:
        sim: with PTQ's encodings.
        task: loss and metric.
        splits: what to train on; what to choose the best epoch by, neither of them the evaluation split.
        recipe: of the training.
        batch_size: for scoring.
        folder: where a killed run finds what it has done.

    States are ranked by the metric, and by the loss where the metric ties. PTQ's own state takes part, so the
    result is never worse than PTQ on the scoring split.

    """
    train, held_out = splits
    score = _scorer(task, held_out, batch_size)
    path = folder / "best.pt"
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

    history = [start, *fit(sim.model, task, train, recipe, folder, score, keep_best, train_mode=False)]
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

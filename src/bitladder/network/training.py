"""The one training loop: FP32 training and QAT differ in the model and the recipe that they hand it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.network.devices import Devices, find_devices, is_main
from bitladder.network.model import output_names
from bitladder.running.resume import load_state, save_state
from bitladder.tasks.outputs import as_returned, name_outputs
from bitladder.tasks.samples import Samples
from bitladder.tasks.task import Task

__all__ = ["Batch", "Epoch", "Recipe", "fit", "rank"]

RISE = 0.2  # share of all batches over which the learning rate rises to its peak

CLIP_NORM = 1.0  # gradients above are scaled down; keeps a bad batch from undoing an epoch


@dataclass(frozen=True)
class Recipe:
    """AdamW with a cosine schedule.

    `range_learning_rate` is that of quantizers' ranges; the weights' where it is None. `patience` is after how many
    epochs without a better one training ends; `checkpoint_steps` after how many batches the state is kept, besides
    after each epoch. None: never.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    range_learning_rate: float | None = None
    patience: int | None = None
    checkpoint_steps: int | None = None


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: its mean training loss; the metric and loss on samples held out.

    `range_drift_*`: by what share of its width a quantizer's range has moved since training began; mean and largest.
    """

    epoch: int
    train_loss: float | None
    value: float | None = None
    loss: float | None = None
    range_drift_mean: float | None = None
    range_drift_max: float | None = None


@dataclass(frozen=True)
class Batch:
    """Samples that are trained on: their rows in the split, inputs as they went into the model, and targets."""

    rows: Tensor
    inputs: Mapping[str, Tensor]
    targets: Any


Score = Callable[[nn.Module], Mapping[str, float]]
Loss = Callable[[Any, Batch], Tensor]


def fit(
    model: nn.Module,
    task: Task,
    train: Samples,
    recipe: Recipe,
    workspace: Path,
    score: Score | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    train_mode: bool = True,
    ranges: Sequence[nn.Parameter] = (),
    loss: Loss | None = None,
) -> list[Epoch]:
    """Train the model in place, and give an Epoch for each.

    State is kept in `workspace`; a run that finds some there goes on from it. Every epoch draws from generators seeded
    by its own number, so a resumed run gives the bits of an undisturbed one.

    Args:
        model: on the CPU, where it is again afterwards.
        task: metric, augmentation and loss.
        train: what to train on.
        recipe: how.
        workspace: where state is kept.
        score: called after each epoch for the fields of Epoch that samples held out decide.
        on_epoch: called then; may keep a copy of the model.
        train_mode: False keeps batch norm and dropout as in evaluation.
        ranges: those of the parameters that are quantizers' ranges: a learning rate of their own, no weight decay.
        loss: takes what the model returned and the Batch; the task's loss if it is None.

    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not recipe.epochs or not trainable:  # a network that came as ONNX has none
        return []
    loop = _Loop(model, task, train, recipe, loss or (lambda outputs, batch: task.loss(outputs, batch.targets)), ranges)
    saved = load_state(workspace / "state.pt")
    done = loop.restore(saved) if saved else []
    loop.devices.wait()  # before the first one writes there

    def keep(**part: Any) -> None:
        if is_main():
            save_state(workspace / "state.pt", loop.state() | {"done": [asdict(item) for item in done], **part})

    part = saved.get("part") if saved else None
    with tqdm(
        total=recipe.epochs * loop.steps,
        initial=len(done) * loop.steps + (part["step"] if part else 0),
        desc="train",
        unit="batch",
        disable=not is_main(),
    ) as bar:
        for epoch in range(len(done), recipe.epochs):
            if _out_of_patience(task, done, recipe.patience):
                break
            mean = loop.train_epoch(epoch, part, train_mode, bar, keep)
            part = None
            model.eval()
            done.append(Epoch(epoch + 1, mean, **(score(model) if score else {})))
            bar.set_postfix({"loss": f"{mean:.4f}"} | ({task.metric.name: done[-1].value} if score else {}))
            on_epoch(done[-1])
            keep()
    model.to("cpu")
    loop.devices.wait()  # for what the first one wrote
    return done


def rank(task: Task, epoch: Epoch) -> tuple[float, float]:
    """Give what orders epochs from worse to better: the metric, and the loss where the metric ties."""
    assert epoch.value is not None and epoch.loss is not None
    return (epoch.value if task.metric.higher_is_better else -epoch.value), -epoch.loss


def _out_of_patience(task: Task, done: list[Epoch], patience: int | None) -> bool:
    if patience is None or not done:
        return False
    best = max(done, key=lambda epoch: rank(task, epoch))
    return len(done) - best.epoch >= patience


class _Loop:
    """What stays the same from epoch to epoch."""

    def __init__(
        self, model: nn.Module, task: Task, train: Samples, recipe: Recipe, loss: Loss, ranges: Sequence[nn.Parameter]
    ) -> None:
        self.model, self.task, self.train, self.recipe, self.loss = model, task, train, recipe, loss
        self.devices: Devices = find_devices()
        self.network = self.devices.place(model)
        self.steps = math.ceil(len(train) / recipe.batch_size)
        own = {id(parameter) for parameter in ranges}
        weights = [item for item in model.parameters() if item.requires_grad and id(item) not in own]
        groups: list[dict[str, Any]] = [{"params": weights}]
        if trained := [parameter for parameter in ranges if parameter.requires_grad]:
            rate = recipe.range_learning_rate or recipe.learning_rate
            groups.append({"params": trained, "lr": rate, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        total = recipe.epochs * self.steps
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            [group["lr"] for group in self.optimizer.param_groups],
            total_steps=total,
            # torch divides by the number of batches of the rise less one, which must not be just none
            pct_start=RISE if RISE * total != 1 else 1.01 * RISE,
        )

    def state(self) -> dict[str, Any]:
        """Give what a run needs to go on."""
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        return {name: part.state_dict() for name, part in parts.items()}

    def restore(self, saved: Mapping[str, Any]) -> list[Epoch]:
        """Take up a saved state; give the epochs that it has behind it."""
        for name, part in (("model", self.model), ("optimizer", self.optimizer), ("schedule", self.schedule)):
            part.load_state_dict(saved[name])
        return [Epoch(**epoch) for epoch in saved["done"]]

    def train_epoch(
        self, epoch: int, part: Mapping[str, Any] | None, train_mode: bool, bar: tqdm, keep: Callable[..., None]
    ) -> float:
        """Train an epoch, or what is left of it after the `part` that was kept; give the mean loss."""
        self.model.train(train_mode)
        torch.manual_seed(self.recipe.seed + epoch)  # dropout and the like
        generator = torch.Generator().manual_seed(self.recipe.seed + epoch)
        batches = torch.randperm(len(self.train), generator=generator).split(self.recipe.batch_size)
        total, first = 0.0, 0
        if part:
            total, first = part["total"], part["step"]
            generator.set_state(part["generator"])
            torch.set_rng_state(part["torch"])
        left = self.train.subset(torch.cat(batches[first:])).batches(self.recipe.batch_size)
        for step, (rows, (inputs, targets)) in enumerate(zip(batches[first:], left, strict=True), first + 1):
            found = self._step(rows, inputs, targets, generator)
            total += found * len(rows)
            bar.set_postfix_str(f"loss {found:.4f}", refresh=False)
            bar.update()
            if self.recipe.checkpoint_steps and step % self.recipe.checkpoint_steps == 0 and step < len(batches):
                state = {"step": step, "total": total, "generator": generator.get_state()}
                keep(part={**state, "torch": torch.get_rng_state()})
        self.devices.align(self.model)
        mean = total / len(self.train)
        if not math.isfinite(mean):
            raise UserError(f"the loss became {mean} in epoch {epoch + 1}; lower the learning_rate in params.yaml")
        return mean

    def _step(self, rows: Tensor, inputs: dict[str, Tensor], targets: Any, generator: torch.Generator) -> float:
        if self.task.augment:
            inputs = self.task.augment(inputs, generator)
        share = self.devices.share
        batch = Batch(share(rows), share(inputs), share(targets))
        outputs = name_outputs(self.network(*batch.inputs.values()), output_names(self.model))
        loss = self.loss(as_returned(outputs), batch)
        weight = self.devices.weight(len(batch.rows), len(rows))
        self.optimizer.zero_grad()
        (loss if weight == 1.0 else loss * weight).backward()
        for group in self.optimizer.param_groups:  # apart: ranges' gradients are sums over whole tensors
            nn.utils.clip_grad_norm_(group["params"], CLIP_NORM)
        self.optimizer.step()
        self.schedule.step()
        return self.devices.mean(loss.item() * weight)

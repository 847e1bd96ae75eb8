"""The one training loop: FP32 training and QAT differ in the model and the recipe that they hand it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.model import output_names
from bitladder.resume import load_state, save_state
from bitladder.tasks.task import Split, Task, as_returned, name_outputs

__all__ = ["Epoch", "Recipe", "fit"]

CLIP_NORM = 1.0  # gradients above are scaled down; keeps a bad batch from undoing an epoch


@dataclass(frozen=True)
class Recipe:
    """AdamW with a cosine schedule."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: its mean training loss, and the metric and loss on samples held out."""

    epoch: int
    train_loss: float | None
    value: float | None = None
    loss: float | None = None


def fit(
    model: nn.Module,
    task: Task,
    train: Split,
    recipe: Recipe,
    workspace: Path,
    score: Callable[[nn.Module], tuple[float, float]] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    train_mode: bool = True,
) -> list[Epoch]:
    """Train the model in place, and give an Epoch for each.

    State is kept in `workspace` after each epoch; a run that finds some there goes on from it. Every epoch draws
    from generators seeded by its own number, so a resumed run gives the bits of an undisturbed one. `score` is
    called after each epoch for the metric and the loss on held-out samples, then `on_epoch`, which may keep a copy
    of the model. `train_mode=False` keeps batch norm and dropout as in evaluation.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not recipe.epochs or not trainable:  # a network that came as ONNX has none
        return []
    optimizer = torch.optim.AdamW(
        trainable,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    steps = math.ceil(len(train) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=0.2
    )
    done: list[Epoch] = []
    saved = load_state(workspace / "state.pt")
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done = [Epoch(**epoch) for epoch in saved["done"]]

    with tqdm(total=recipe.epochs * steps, initial=len(done) * steps, desc="train", unit="batch") as bar:
        for epoch in range(len(done), recipe.epochs):
            loss = _train_epoch(model, task, train, recipe, epoch, (optimizer, schedule), bar, train_mode)
            model.eval()
            done.append(Epoch(epoch + 1, loss, *(score(model) if score else ())))
            bar.set_postfix({"loss": f"{loss:.4f}"} | ({task.metric.name: done[-1].value} if score else {}))
            on_epoch(done[-1])
            save_state(
                workspace / "state.pt",
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "done": [vars(item) for item in done],
                },
            )
    return done


def _train_epoch(
    model: nn.Module,
    task: Task,
    train: Split,
    recipe: Recipe,
    epoch: int,
    optimizers: tuple[Any, Any],
    bar: tqdm,
    train_mode: bool,
) -> float:
    optimizer, schedule = optimizers
    model.train(train_mode)
    torch.manual_seed(recipe.seed + epoch)  # dropout and the like
    generator = torch.Generator().manual_seed(recipe.seed + epoch)
    total = 0.0
    for rows in torch.randperm(len(train), generator=generator).split(recipe.batch_size):
        inputs = {name: values[rows] for name, values in train.inputs.items()}
        if task.augment:
            inputs = task.augment(inputs, generator)
        returned = name_outputs(model(*inputs.values()), output_names(model))
        loss = task.loss(as_returned(returned), train.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        total += loss.item() * len(rows)
        bar.update()
    mean = total / len(train)
    if not math.isfinite(mean):
        raise UserError(f"the loss became {mean} in epoch {epoch + 1}; lower the learning_rate in params.yaml")
    return mean

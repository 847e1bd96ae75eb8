"""The splits of a task: checked, shuffled, and carried from the stage `data` to the others.

A Split of tensors is written whole. Of a Dataset nothing is copied: its file holds the order, and by what the other
stages notice that its samples have changed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bitladder.errors import UserError
from bitladder.params import Params
from bitladder.paths import samples as file_of
from bitladder.running.files import load_note, load_tensors, save_tensors
from bitladder.tasks.samples import SPLITS, Origin, Samples, Split
from bitladder.tasks.source import user_code
from bitladder.tasks.streamed import Shape, Streamed, shapes_of
from bitladder.tasks.task import Task, load_task

__all__ = ["check_repeats", "find_split", "load_samples", "load_split", "make_splits", "save_samples", "save_split"]

CHECKED = 2000  # samples of a Dataset that are read by the stage `data`, and known again by the others

TWICE = 8  # of them, read again at once


def make_splits(task: Task, seed: int, workers: int = 0) -> dict[str, Any]:
    """Call the task for its splits, and shuffle each; the same for the same seed.

    A folder is read class by class, and the stages take the first samples of a split: to fit techniques, to run on the
    NPU. Unshuffled, they would see its first classes only.

    Args:
        task: the user's.
        seed: of its splits, and of their order.
        workers: processes that read a Dataset.

    Returns: Samples by the name of their split. Raises UserError where one is missing, empty, or unlike the others.

    """
    splits = {name: _shuffled(split, f"{seed}:{name}") for name, split in _given(task, seed, workers).items()}
    first = _shapes(splits["train"])
    for name, split in splits.items():
        found = _shapes(split)
        if list(found) != list(first):
            raise UserError(f"task: the {name!r} split has inputs {list(found)}, unlike the 'train' split")
        for part, shape in found.items():
            if shape != first[part]:
                raise UserError(
                    f"task: {part!r} is {_described(shape)} in the {name!r} split, and {_described(first[part])} in"
                    " the 'train' split; they must be alike"
                )
            if (dtype := getattr(torch, shape[1])).is_floating_point and dtype != torch.float32:
                raise UserError(f"task: {part!r} of the {name!r} split is {dtype}; give torch.float32")
    return splits


def save_samples(name: str, samples: Samples) -> None:
    """Write what the other stages know of a split: its tensors; of a Dataset its order, and digests of some items."""
    if isinstance(samples, Split):
        save_split(file_of(name), samples)
        return
    assert isinstance(samples, Streamed)
    known = samples.first(CHECKED)
    digests = known.read_digests()
    check_repeats(known, digests)
    tensors = {"order": torch.from_numpy(samples.rows), "digests": torch.tensor(list(digests.values()))}
    whole = hashlib.sha256(b"".join(values.numpy().tobytes() for values in tensors.values())).hexdigest()
    shapes = {part: {"shape": list(shape), "dtype": dtype} for part, (shape, dtype) in samples.shapes.items()}
    save_tensors(file_of(name), tensors, json.dumps({"samples": len(samples), "inputs": shapes, "digest": whole}))


def check_repeats(samples: Streamed, digests: Mapping[int, int] | None = None) -> None:
    """Read a few samples again. Raise UserError where one is not what it was, as of a data set that draws at random."""
    few = samples.first(TWICE)
    again = Streamed(**{**vars(few), "digests": few.read_digests() if digests is None else digests})
    next(again.batches(TWICE))


def load_samples(task: Task, params: Params, name: str) -> Samples:
    """Give a split as the stage `data` left it. Raise UserError where the task's Dataset has other samples now."""
    path = file_of(name)
    tensors = load_tensors(path)
    if (note := load_note(path)) is None:
        return load_split(path)
    known = json.loads(note)
    split = _given(task, params.seed, params.compute.loader_workers, name)[name]
    if not isinstance(split, Streamed) or len(split) != known["samples"]:
        raise UserError(
            f"task: the {name!r} split has {len(split)} samples, and had {known['samples']} when the stage data read"
            " it; name its files under task.files, so that DVC notices a change"
        )
    order = tensors["order"].numpy()
    digests = dict(zip(order.tolist(), tensors["digests"].tolist(), strict=False))
    origin = Origin(str(Path.cwd()), params.task.factory, json.dumps(params.task.args), params.seed, name)
    return Streamed(**{**vars(split), "rows": order, "digests": digests, "origin": origin})


def find_split(origin: Origin) -> Split | Streamed:
    """Give a split as its task does, in this process and the folder that `origin` names."""
    task = load_task(origin.factory, json.loads(origin.args))
    return _given(task, origin.seed, 0, origin.split)[origin.split]


def save_split(path: Any, split: Split) -> None:
    """Write a split as safetensors; the order of its inputs goes into their names. Of targets, only a tensor."""
    tensors = {f"inputs.{index}.{name}": values for index, (name, values) in enumerate(split.inputs.items())}
    save_tensors(path, tensors | ({"targets": split.targets} if isinstance(split.targets, Tensor) else {}))


def load_split(path: Any) -> Split:
    """Read what save_split wrote."""
    tensors = load_tensors(path)
    targets = tensors.pop("targets", None)
    keys = sorted(tensors, key=lambda key: int(key.split(".", 2)[1]))
    return Split({key.split(".", 2)[2]: tensors[key] for key in keys}, targets)


def _given(task: Task, seed: int, workers: int, *names: str) -> dict[str, Split | Streamed]:
    """Call the task for its splits; give those of these names, by default all, in the task's own order."""
    with user_code("splits()"):
        splits = task.splits(seed)
    if not isinstance(splits, Mapping):
        raise UserError(f"task: splits() must give a dict of {', '.join(SPLITS)}; it gave {type(splits).__name__}")
    found: dict[str, Split | Streamed] = {}
    for name in names or SPLITS:
        if name not in splits:
            raise UserError(f"task: splits() gave no {name!r} split; it must give {', '.join(SPLITS)}")
        split = splits[name]
        if isinstance(split, Split):
            _check_tensors(name, split)
            found[name] = split
        else:
            found[name] = _streamed(name, split, task, workers)
    return found


def _check_tensors(name: str, split: Split) -> None:
    if not isinstance(split.inputs, dict):
        raise UserError(f"task: the {name!r} split must be a Split({{input name: tensor}}, targets)")
    for part, values in (*split.inputs.items(), ("targets", split.targets)):
        if not isinstance(values, Tensor):
            kind = type(values).__name__
            raise UserError(f"task: {part!r} of the {name!r} split must be a tensor, and is of type {kind}")
        if not values.ndim:
            raise UserError(
                f"task: {part!r} of the {name!r} split is a single number; its first dimension must be the number"
                " of samples"
            )
    if not len(split) or not split.inputs:
        raise UserError(f"task: the {name!r} split is empty")
    for part, values in split.inputs.items():
        if len(values) != len(split.targets):
            raise UserError(
                f"task: the {name!r} split has {len(values)} samples of {part!r} and {len(split.targets)} targets"
            )


def _streamed(name: str, dataset: Any, task: Task, workers: int) -> Streamed:
    """Take a Dataset as samples, in its own order."""
    joined = isinstance(dataset, tuple) and any(isinstance(one, Tensor) for one in dataset)  # not a sequence of pairs
    if joined or (not isinstance(dataset, Dataset) and not hasattr(type(dataset), "__getitem__")):
        raise UserError(
            f"task: the {name!r} split must be a Split({{input name: tensor}}, targets) or a map-style Dataset of"
            f" PyTorch's with items (inputs, target), and is of type {type(dataset).__name__}"
        )
    try:
        count = len(dataset)
    except (TypeError, NotImplementedError):
        raise UserError(
            f"task: the {name!r} split is a {type(dataset).__name__} without __len__; give a map-style Dataset, which"
            " knows its number of samples and gives any of them by index"
        ) from None
    if not count:
        raise UserError(f"task: the {name!r} split is empty")
    order = np.arange(count, dtype=np.int64)
    alone = Streamed(dataset, name, order, {}, {}, task.collate, workers, task.label)
    return Streamed(**{**vars(alone), "shapes": alone.first_shapes()})


def _shuffled(split: Split | Streamed, key: str) -> Split | Streamed:
    own = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
    return split.subset(torch.randperm(len(split), generator=torch.Generator().manual_seed(own)))


def _shapes(samples: Split | Streamed) -> dict[str, Shape]:
    if isinstance(samples, Streamed):
        return dict(samples.shapes)
    return shapes_of({name: values[0] for name, values in samples.inputs.items()})


def _described(shape: Shape) -> str:
    return f"{' x '.join(map(str, ('N', *shape[0])))} of {shape[1]}"

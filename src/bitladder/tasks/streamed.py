"""A Dataset of PyTorch's as samples: read by DataLoader's workers, never copied, and checked to stay what it was."""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.running.explain import user_line
from bitladder.running.heap import GiveBack
from bitladder.tasks.digest import digest_of
from bitladder.tasks.samples import Batch, Origin

__all__ = ["Shape", "Streamed", "name_inputs", "shapes_of"]

Shape = tuple[tuple[int, ...], str]
"""An input's shape without the number of samples, and its dtype as torch names it."""

DIGESTS_AT_A_TIME, HELD_AT_A_TIME = 32, 8

ALONE = 8  # samples that are read without workers: to start them takes longer


@dataclass(frozen=True)
class Streamed:
    """Samples of a map-style Dataset, whose items are `(inputs, target)`.

    `rows` are the indices into the dataset, in order; `shapes` what each item's inputs must be; `digests` those of some
    items, as the stage `data` found them, by index. `collate` joins a batch's targets; where there is `label`, items
    are inputs alone, and it gives the targets of a batch of them. `workers` processes read. `origin` is None of a
    dataset that only this process has.
    """

    dataset: Dataset
    name: str
    rows: np.ndarray
    shapes: Mapping[str, Shape]
    digests: Mapping[int, int] = field(default_factory=dict)
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0
    label: Callable[[dict[str, Tensor]], Any] | None = None
    origin: Origin | None = None

    def __len__(self) -> int:
        """Give the number of samples."""
        return len(self.rows)

    def subset(self, rows: Sequence[int] | Tensor) -> "Streamed":
        """Give the samples with these indices, in their order."""
        return replace(self, rows=self.rows[np.asarray(rows, dtype=np.int64)])

    def first(self, count: int | None) -> "Streamed":
        """Give the first `count` samples; all if there are fewer, or it is None."""
        return replace(self, rows=self.rows[:count])

    def after(self, count: int) -> "Streamed":
        """Give the samples after the first `count`; none, if there are no more."""
        return replace(self, rows=self.rows[count:])

    def row(self, index: int) -> dict[str, np.ndarray]:
        """Give a sample's inputs as ONNX Runtime takes them: a batch of one, by name."""
        inputs, _ = _whole(self._read([self._item(int(self.rows[index]))]))
        return {name: values.numpy() for name, values in inputs.items()}

    def batches(self, size: int) -> Iterator[Batch]:
        """Give inputs and targets, `size` samples at a time, in their order, whatever the number of workers is.

        Raises UserError where an item is not as the others, cannot be read, or is not what the stage `data` read.
        """
        for read in self._load(size, self._read):
            inputs, targets = _whole(read)
            yield inputs, self.label(inputs) if self.label else targets

    def held(self) -> "Streamed":
        """Give the same samples, read into memory: targets are joined anew in each batch."""
        items = [item for items in self._load(HELD_AT_A_TIME, list) for item in items]
        if wrong := next((item for item in items if isinstance(item, str)), None):
            raise UserError(wrong)
        rows = np.arange(len(items), dtype=np.int64)
        held = [inputs for inputs, _ in items] if self.label else items
        return replace(self, dataset=_Held(held), rows=rows, digests={}, workers=0, origin=None)

    def first_shapes(self) -> dict[str, Shape]:
        """Give the shapes of the first item's inputs, which all others must have."""
        item = self._item(int(self.rows[0]), alike=False)
        if isinstance(item, str):
            raise UserError(item)
        return shapes_of(item[0])

    def read_digests(self) -> dict[int, int]:
        """Read all items, and give the digest of each by its index into the dataset."""
        found: list[int] = []
        with tqdm(total=len(self), desc=f"read {self.name}", unit="sample", leave=False) as bar:
            for read in self._load(DIGESTS_AT_A_TIME, _digests):
                if isinstance(read, str):
                    raise UserError(read)
                found += read
                bar.update(len(read))
        return dict(zip(self.rows.tolist(), found, strict=True))

    def _load(self, size: int, join: Callable[[list[Any]], Any]) -> Iterator[Any]:
        workers, each, give_back = self.workers if len(self) > ALONE else 0, _bytes_of(self.shapes), GiveBack()
        # A generator of its own: the loader would draw from torch's own, which others draw from too
        loader = DataLoader(
            _Items(self),
            size,
            num_workers=workers,
            collate_fn=_Join(join, each),
            multiprocessing_context="fork" if workers else None,
            generator=torch.Generator().manual_seed(0),
        )
        read = _without_interrupts(loader)
        try:
            for batch in read:
                yield batch
                give_back.after(each * size)
        except (RuntimeError, OSError, EOFError):  # by how far its last batch had come
            if not workers:
                raise
            raise UserError(
                f"task: a process that reads the {self.name!r} split died; is there too little memory, or of /dev/shm"
                " (docker run --shm-size)? Fewer compute.loader_workers need less; 0 reads without them"
            ) from None

    def _item(self, row: int, alike: bool = True) -> Any:
        """Give an item as (inputs by name, target); a text that says what is wrong, where it is not as it must be."""
        what = f"task: sample {row} of the {self.name!r} split"
        try:
            item = self.dataset[row]
        except Exception as error:  # the user's code may raise anything
            reason = " ".join(str(error).split())[:300]
            path = _path_of(self.dataset, row)
            named = f" ({path})" if path and path not in reason else ""
            return f"{what}{named} cannot be read: {type(error).__name__}: {reason}{user_line(error)}"
        if self.label:
            item = (item, 0)
        if not isinstance(item, tuple | list) or len(item) != 2:
            alone = (
                ""
                if isinstance(item, tuple | list)
                else "; where there are no targets, bitladder.tasks.label_free helps"
            )
            return f"{what} must be a pair (inputs, target), and is {_described(item)}{alone}"
        try:
            inputs = name_inputs(item[0])
        except (TypeError, ValueError, RuntimeError) as error:
            return f"{what}: {error}"
        if alike and (found := shapes_of(inputs)) != dict(self.shapes):
            return f"{what} is {_told(found)}, and the first sample is {_told(self.shapes)}; all must be alike"
        if row in self.digests and digest_of((inputs, item[1])) != self.digests[row]:
            return (
                f"{what} is not what it was when first read. Has the data changed? Name it under task.files, so that"
                " DVC notices. Does the data set draw at random? Put that into Task.augment"
            )
        return inputs, item[1]

    def _read(self, items: list[Any]) -> Any:
        """Join items to a batch; a text that says what is wrong goes on as it is."""
        for item in items:
            if isinstance(item, str):
                return item
        inputs = {name: torch.stack([item[0][name] for item in items]) for name in items[0][0]}
        targets = [item[1] for item in items]
        try:
            return inputs, (self.collate or default_collate)(targets)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            if self.collate:
                return f"task: collate fails with {type(error).__name__}: {reason}{user_line(error)}"
            return (
                f"task: targets of the {self.name!r} split do not stack ({reason}); give Task(collate=...), which joins"
                " a list of targets to what the metric and the loss take; collate=list keeps the list"
            )


class _Held(Dataset):
    """Items that were read before."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class _Items(Dataset):
    """Items in the order of the rows, for a DataLoader."""

    def __init__(self, samples: Streamed) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples._item(int(self.samples.rows[index]))


class _Join:
    """Joins items in the process that reads them, and keeps that from growing."""

    def __init__(self, join: Callable[[list[Any]], Any], each: int) -> None:
        self.join, self.each, self.give_back = join, each, GiveBack()

    def __call__(self, items: list[Any]) -> Any:
        joined = self.join(items)
        self.give_back.after(self.each * len(items))
        return joined


def _bytes_of(shapes: Mapping[str, Shape]) -> int:
    return sum(math.prod(sizes) * getattr(torch, dtype).itemsize for sizes, dtype in shapes.values())


def _digests(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, str)), None) or [digest_of(item) for item in items]


def _without_interrupts(loader: DataLoader) -> Iterator[Any]:
    """Start reading. A worker that dies is noticed where its batch is waited for, not at any line by a signal."""
    before = signal.getsignal(signal.SIGCHLD)
    read = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return read


def _whole(read: Any) -> Batch:
    if isinstance(read, str):
        raise UserError(read)
    inputs, targets = read
    return inputs, targets


def name_inputs(given: Any) -> dict[str, Tensor]:
    """Name an item's inputs: a tensor is `input`, those of a tuple `input_0`, `input_1`, ...; a dict names its own.

    Raises TypeError where one is no tensor or array.
    """
    if isinstance(given, Mapping):
        named = {str(name): value for name, value in given.items()}
    elif isinstance(given, tuple | list):
        named = {f"input_{index}": value for index, value in enumerate(given)}
    else:
        named = {"input": given}
    for name, value in named.items():
        if not isinstance(value, Tensor | np.ndarray | np.generic | int | float):
            raise TypeError(f"its input {name!r} must be a tensor, and is {_described(value)}")
    return {name: torch.as_tensor(value) for name, value in named.items()}


def shapes_of(inputs: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Give the shape and dtype of each input of one item."""
    return {name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in inputs.items()}


def _path_of(dataset: Any, row: int) -> str:
    """Name the file of an item, where the dataset lists its files as torchvision's do; empty where it does not."""
    try:
        listed = dataset.samples[row]
        path = listed[0] if isinstance(listed, tuple | list) else listed
        return os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    except (AttributeError, IndexError, KeyError, TypeError):
        return ""


def _described(value: Any) -> str:
    return f"of type {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def _told(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(
        f"{name} {' x '.join(map(str, shape)) or 'number'} {dtype}" for name, (shape, dtype) in shapes.items()
    )

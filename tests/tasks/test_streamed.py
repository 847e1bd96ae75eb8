"""Data sets that stream: the same bits for any number of workers, and one line for each that is wrong."""

import os
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset

from bitladder.errors import UserError
from bitladder.params import load_params
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import in_memory
from bitladder.tasks.splits import check_repeats, load_samples, make_splits, save_samples
from bitladder.tasks.task import Split, Task


class Numbers(Dataset):
    """`count` items of four numbers with a class; `change` may give another item at an index."""

    def __init__(self, count: int, change: Any = None) -> None:
        self.count, self.change = count, change

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        item = torch.full((4,), float(index)), index % 3
        return self.change(index, item) if self.change else item


def task_of(dataset: Any, collate: Any = None, count: int = 40) -> Task:
    splits = lambda seed: {"train": Numbers(count), "calibration": Numbers(count), "evaluation": dataset}  # noqa: E731
    metric = Metric("accuracy", lambda outputs, targets: (outputs.argmax(1) == targets).double())
    return Task(lambda: nn.Linear(4, 3), splits, functional.cross_entropy, metric, collate=collate)


def read(samples: Any, size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(samples.batches(size))
    return torch.cat([inputs["input"] for inputs, _ in parts]), torch.cat([targets for _, targets in parts])


def test_the_same_order_and_bits_for_any_number_of_workers():
    alone, two = (make_splits(task_of(Numbers(40)), 0, workers)["evaluation"] for workers in (0, 2))
    assert [len(targets) for _, targets in alone.batches(7)] == [7, 7, 7, 7, 7, 5]
    for one, other in zip(read(alone), read(two), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(read(alone)[0], read(make_splits(task_of(Numbers(40)), 1)["evaluation"])[0])


def test_subsets_rows_and_what_is_held_are_the_same_samples():
    samples = make_splits(task_of(Numbers(40)), 0)["evaluation"]
    inputs, targets = read(samples)
    assert torch.equal(read(samples.first(10))[0], inputs[:10])
    assert torch.equal(read(samples.after(10))[1], targets[10:])
    assert torch.equal(read(samples.subset([3, 1]))[0], inputs[[3, 1]])
    assert samples.row(5)["input"].tolist() == inputs[5:6].tolist()
    assert torch.equal(read(samples.held(), 9)[0], inputs)
    assert torch.equal(in_memory(samples).inputs["input"], inputs)
    assert len(samples.first(None)) == len(samples) == 40


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ((torch.zeros(2), torch.zeros(3)), ["input_0", "input_1"]),
        ({"left": torch.zeros(2), "right": np.zeros(3, np.float32)}, ["left", "right"]),
    ],
)
def test_inputs_of_an_item_have_names(given, names):
    items = [(given, 0)] * 4
    task = Task(
        nn.Identity, lambda seed: dict.fromkeys(("train", "calibration", "evaluation"), items), len, Metric("m", len)
    )
    inputs, _ = next(make_splits(task, 0)["train"].batches(2))
    assert list(inputs) == names


def test_targets_that_do_not_stack_are_joined_by_the_task():
    boxes = Numbers(40, lambda index, item: (item[0], torch.zeros(index % 3, 4)))
    with pytest.raises(UserError, match=r"targets of the 'evaluation' split do not stack.*collate"):
        list(make_splits(task_of(boxes), 0)["evaluation"].batches(8))
    targets = [targets for _, targets in make_splits(task_of(boxes, collate=list), 0)["evaluation"].batches(8)]
    assert [len(one) for one in targets] == [8] * 5
    assert {len(one) for batch in targets for one in batch} == {0, 1, 2}


def die(index: int, item: Any) -> Any:
    if index == 20:
        os._exit(1)
    return item


def fail(index: int, item: Any) -> Any:
    if index == 20:
        raise OSError("disk on fire")
    return item


WRONG = {
    "no pair": (
        Numbers(40, lambda index, item: item[0]),
        "sample 0 .* must be a pair.*no targets, bitladder.tasks.label_free",
    ),
    "a later item is no pair": (
        Numbers(40, lambda index, item: item if index < 20 else (1,)),
        r"must be a pair.* of 1",
    ),
    "no tensor": (Numbers(40, lambda index, item: ("text", 0)), "'input' must be a tensor, and is of type str"),
    "another shape": (
        Numbers(40, lambda index, item: (torch.zeros(5 if index == 20 else 4), 0)),
        "sample 20 .* is input 5 float32, and the first sample is input 4 float32",
    ),
    "an error": (Numbers(40, fail), r"sample 20 of the 'evaluation' split cannot be read: OSError: disk on fire \("),
    "a worker that dies": (Numbers(40, die), "a process that reads the 'evaluation' split died.*loader_workers"),
    "empty": (Numbers(0), "the 'evaluation' split is empty"),
    "no __len__": (type("Endless", (IterableDataset,), {"__iter__": lambda self: iter(())})(), "without __len__"),
    "no data set": (5, "must be a Split.* or a map-style Dataset"),
    "collate": (Numbers(40), "collate fails with ZeroDivisionError"),
    "another type": (Numbers(40, lambda index, item: (item[0].double(), 0)), "N x 4 of float64 in the 'evaluation'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_data_set_gives_one_line(name):
    dataset, says = WRONG[name]
    collate = (lambda targets: 1 // 0) if name == "collate" else None
    with pytest.raises(UserError, match=says) as caught:
        list(make_splits(task_of(dataset, collate), 0, 2)["evaluation"].batches(4))
    assert "\n" not in str(caught.value)


@pytest.fixture
def reread(tmp_path, monkeypatch, params_with):
    """Write what the stage `data` writes of a task; give what reads the samples of that or another task again."""
    monkeypatch.chdir(tmp_path)
    params = load_params(params_with({}))

    def write(task: Task) -> Any:
        save_samples("evaluation", make_splits(task, params.seed)["evaluation"])
        return lambda other: read(load_samples(other, params, "evaluation"))

    return write


def test_what_the_stage_data_saw_is_read_again_and_nothing_is_copied(reread, tmp_path):
    task = task_of(Numbers(5000))
    again = reread(task)(task)
    assert torch.equal(again[0], read(make_splits(task, 0)["evaluation"])[0])
    assert (tmp_path / "build/data/evaluation.safetensors").stat().st_size < 5000 * 8 + 2000 * 8 + 1000


def test_data_that_changed_is_noticed(reread):
    look = reread(task_of(Numbers(40)))
    with pytest.raises(UserError, match="has 39 samples, and had 40 when the stage data read it"):
        look(task_of(Numbers(39)))
    changed = Numbers(40, lambda index, item: (item[0] + (index == 17), item[1]))
    with pytest.raises(UserError, match="sample 17 of the 'evaluation' split is not what it was when first read"):
        look(task_of(changed))
    relabelled = Numbers(40, lambda index, item: (item[0], 0 if index == 17 else item[1]))
    with pytest.raises(UserError, match="sample 17"):
        look(task_of(relabelled))


def test_a_data_set_that_draws_at_random_is_refused():
    random = Numbers(40, lambda index, item: (item[0] + torch.rand(()), item[1]))
    with pytest.raises(UserError, match=r"draw at random\? Put that into Task.augment"):
        save_samples("evaluation", make_splits(task_of(random), 0)["evaluation"])
    with pytest.raises(UserError, match=r"sample .* of the 'evaluation' split is not what it was when first read"):
        check_repeats(make_splits(task_of(random), 0)["evaluation"])  # as `check --task` does
    check_repeats(make_splits(task_of(Numbers(40)), 0)["evaluation"])


def test_an_unreadable_image_is_named_by_its_path(tmp_path):
    from bitladder.tasks.builtin.image_folder import task

    for split in ("train", "calibration", "evaluation"):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (40, 40), (index, 20, 30)).save(folder / f"{index}.jpg")
    broken = tmp_path / "train/dog/1.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    made = task(str(tmp_path), "mobilenet_v3_small", side=32)
    splits = make_splits(made, 0)
    inputs, targets = next(splits["evaluation"].batches(6))
    assert inputs["image"].shape == (6, 3, 32, 32)
    assert sorted(targets.tolist()) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match=str(Path("train/dog/1.jpg"))):
        list(splits["train"].batches(2))


def test_a_split_of_tensors_gives_its_batches_too():
    split = Split({"x": torch.arange(10.0)}, torch.arange(10))
    (first, targets), *_ = split.batches(4)
    assert first["x"].tolist() == targets.tolist() == [0, 1, 2, 3]


def memory_of_readers(others: set[int]) -> dict[int, float]:
    """Give the memory of each process that reads for this one, in MB, as far as it shares it with none."""
    readers = {one.pid for one in active_children()} - others
    rollups = {pid: Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in readers}
    return {pid: int(text.partition("Pss_Anon:")[2].split()[0]) / 1024 for pid, text in rollups.items()}


def test_the_processes_that_read_do_not_grow_with_what_they_have_read(tmp_path, monkeypatch):
    """Pictures of 48 kB decoded: 5,000 of them would leave each process 100 MB larger."""
    from bitladder.running import heap
    from bitladder.tasks.builtin.image_folder import task

    monkeypatch.setattr(heap, "FREED_BYTES", 2**23)
    for index in range(40):
        path = tmp_path / f"{'ab'[index % 2]}/{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        drawn = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(drawn).save(path, quality=85)
    samples = make_splits(task(str(tmp_path), "resnet18", side=64), 0, 2)["train"]
    many = samples.subset([index % len(samples) for index in range(6000)])
    seen, others = {}, {one.pid for one in active_children()}  # of tests before this one
    for number, _ in enumerate(many.batches(100)):
        if number in (10, 55):
            seen[number] = memory_of_readers(others)
    assert len(seen[10]) == 2
    assert all(seen[55][process] < seen[10][process] + 30 for process in seen[10])

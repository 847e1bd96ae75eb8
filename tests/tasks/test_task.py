from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from bitladder.errors import UserError
from bitladder.network.model import build_network
from bitladder.tasks.builtin.mnist import network, shift, task
from bitladder.tasks.splits import make_splits
from bitladder.tasks.task import SPLITS, Split, Task, load_task, name_outputs

MNIST = "bitladder.tasks.builtin.mnist:task"


@pytest.mark.parametrize(
    ("factory", "args", "message"),
    [
        ("nowhere.at_all:task", {}, r"task\.factory: cannot import 'nowhere\.at_all'"),
        ("bitladder.tasks.builtin.mnist:tusk", {}, r"task\.factory: 'bitladder\.tasks\.builtin\.mnist' has no 'tusk'"),
        ("bitladder.tasks.builtin.mnist:network", {}, r"task\.factory: .* must return a Task, and returned Sequential"),
        (MNIST, {"images": 3}, r"task\.args: .* it takes \(train"),
        (MNIST, {"calibration": 0}, r"task\.args\.calibration: must be a whole number of images"),
        (MNIST, {"train": "all"}, r"task\.args\.train: must be a whole number of images"),
        (MNIST, {"train": 4500}, r"4500 \+ 500 \+ 1000 images are more than the 5000"),
    ],
)
def test_a_wrong_factory_gives_one_line(factory, args, message):
    with pytest.raises(UserError, match=message) as error:
        load_task(factory, args)
    assert "\n" not in str(error.value)


def of(count: int, name: str = "x") -> Split:
    return Split({name: torch.zeros(count, 2)}, torch.zeros(count))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": of(3), "calibration": of(3)}, "gave no 'evaluation' split"),
        ({"train": of(3), "calibration": of(0), "evaluation": of(3)}, "'calibration' split is empty"),
        ({"train": of(3), "calibration": of(3), "evaluation": of(3, "y")}, "'evaluation' split has inputs"),
        (
            {"train": of(3), "calibration": of(3), "evaluation": Split({"x": torch.zeros(4, 2)}, torch.zeros(3))},
            "'evaluation' split has 4 samples of 'x' and 3 targets",
        ),
        ({"train": Split({"x": torch.zeros(3)}, torch.tensor(3))}, "'targets' of the 'train' split is a single number"),
        (
            {"train": ({"x": torch.zeros(3, 2)}, torch.zeros(3))},
            r"the 'train' split must be a Split\({input name: tensor}, targets\) .*, and is of type tuple",
        ),
        ({"train": Split({"x": torch.tensor(3)}, torch.zeros(3))}, "'x' of the 'train' split is a single number"),
    ],
)
def test_wrong_splits_give_one_line(splits, message):
    made = task()
    wrong = Task(made.model, lambda seed: splits, made.loss, made.metric)
    with pytest.raises(UserError, match=message):
        make_splits(wrong, 0)


def test_a_network_in_place_of_the_function_that_builds_it_is_told_so():
    made = task()
    with pytest.raises(UserError, match="task: model must be a function that builds the network, and is one; give "):
        build_network(Task(made.model(), made.splits, made.loss, made.metric))


def test_each_split_is_shuffled_by_its_seed_and_targets_stay_with_their_inputs():
    made, labels = task(), torch.arange(10).repeat_interleave(20)  # as a folder is read: class by class
    split = Split({"x": labels[:, None].float(), "y": -labels[:, None].float()}, labels)
    by_class = Task(made.model, lambda seed: dict.fromkeys(SPLITS, split), made.loss, made.metric)
    splits, again, other = (make_splits(by_class, seed) for seed in (0, 0, 1))
    for name, one in splits.items():
        assert len(one.first(50).targets.unique()) == 10, "the first samples are of all classes"
        assert torch.equal(one.inputs["x"][:, 0], one.targets) and torch.equal(one.inputs["y"], -one.inputs["x"])
        assert torch.equal(one.targets.sort().values, labels)
        assert torch.equal(one.targets, again[name].targets) and not torch.equal(one.targets, other[name].targets)
    assert not torch.equal(splits["train"].targets, splits["evaluation"].targets)
    assert torch.equal(split.targets, labels), "what the task holds stays as it is"


def test_outputs_are_named():
    a, b = torch.zeros(1), torch.ones(1)
    assert list(name_outputs(a)) == ["output"]
    assert list(name_outputs((a, b))) == ["output_0", "output_1"]
    assert list(name_outputs({"mask": a, "box": b})) == ["mask", "box"]
    assert list(name_outputs((a,))) == ["output_0"]
    assert list(name_outputs((a, b), ["mask", "box"])) == ["mask", "box"]
    with pytest.raises(UserError, match="'output' is of type str"):
        name_outputs("logits")
    with pytest.raises(UserError, match="it returned NoneType without one"):
        name_outputs(None)


@dataclass
class Answer:
    scores: object
    loss: object = None
    hidden: object = None


Pair = namedtuple("Pair", "low high")


def test_outputs_in_one_another_are_named_by_their_path():
    a, b, c = torch.zeros(1), torch.ones(1), torch.ones(2)
    assert list(name_outputs((a, (b, [c])))) == ["output_0", "output_1_0", "output_1_1_0"]
    assert list(name_outputs({"y": a, "more": {"z": b}, "none": None})) == ["y", "more_z"]
    assert list(name_outputs(Answer(a, hidden=(b, c)))) == ["scores", "hidden_0", "hidden_1"]
    assert list(name_outputs(Pair(a, b))) == ["low", "high"]
    assert list(name_outputs((a, Pair(b, c)))) == ["output_0", "output_1_low", "output_1_high"]
    with pytest.raises(UserError, match="'more_z' is of type float"):
        name_outputs({"y": a, "more": {"z": 0.5}})
    with pytest.raises(UserError, match="two outputs whose names join to 'a_b'"):
        name_outputs({"a": {"b": a}, "a_b": b})


def test_mnist_splits_are_real_disjoint_and_follow_the_seed():
    splits = make_splits(task(train=300, calibration=100, evaluation=100), 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 300, "calibration": 100, "evaluation": 100}
    images = torch.cat([split.inputs["image"] for split in splits.values()])
    assert len(images.flatten(1).unique(dim=0)) == 500
    assert images.min() == 0 and images.max() == 1
    assert set(splits["train"].targets.tolist()) == set(range(10))
    again, other = make_splits(task(300, 100, 100), 0), make_splits(task(300, 100, 100), 1)
    assert torch.equal(again["train"].inputs["image"], splits["train"].inputs["image"])
    assert not torch.equal(other["train"].inputs["image"], splits["train"].inputs["image"])


def test_shift_moves_whole_digits_as_its_generator_says():
    images = torch.zeros(50, 1, 28, 28)
    images[:, 0, 14, 14] = 1
    moved = shift({"image": images}, torch.Generator().manual_seed(0))["image"]
    assert moved.shape == images.shape
    where = moved[:, 0].nonzero()[:, 1:] - 14
    assert len(where) == 50
    assert where.abs().max() == 2 and len(where.unique(dim=0)) > 10
    assert torch.equal(moved, shift({"image": images}, torch.Generator().manual_seed(0))["image"])


def test_the_network_has_the_size_that_it_is_said_to_have():
    assert sum(values.numel() for values in network().parameters()) == 30_826

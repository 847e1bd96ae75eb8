"""Wrong tasks: each gives one clear line, before any long work."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from bitladder.errors import UserError
from bitladder.network.smoke_test import try_task
from bitladder.tasks.splits import make_splits
from bitladder.tasks.task import Metric, Split, Task, load_task


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def with_weights(change) -> nn.Module:
    model = network()
    with torch.no_grad():
        change(model[1].weight)
    return model


class Mixing(nn.Sequential):
    def forward(self, x):
        return super().forward(x) - super().forward(x).mean(0)


class Giving(nn.Sequential):
    """Gives something made of its answer."""

    def __init__(self, give):
        super().__init__(nn.Flatten(), nn.Linear(12, 3))
        self.give = give

    def forward(self, x):
        return self.give(super().forward(x))


def split(count: int = 6, **changes) -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = {"x": torch.randn(count, 3, 2, 2, generator=generator)}
    return Split(**{"inputs": inputs, "targets": torch.zeros(count, dtype=torch.long)} | changes)


def splits(**changes):
    return lambda seed: {"train": split(), "calibration": split(), "evaluation": split()} | changes


GOOD = {
    "model": network,
    "splits": splits(),
    "loss": functional.cross_entropy,
    "metric": Metric("accuracy", lambda logits, targets: (logits.argmax(1) == targets).double().mean().item()),
}


def fail(*args):
    raise KeyError("fold")


WRONG = {
    "no loss": ({"loss": None}, r"loss must be a function, and is None"),
    "no metric": ({"metric": len}, r"metric must be a Metric\(name, function\)"),
    "no model": ({"model": nn.ReLU()}, r"model must be a function that builds the network"),
    "a model that is none": ({"model": lambda: "resnet18"}, r"must return a torch.nn.Module, and returned str"),
    "a factory that fails": (
        {"model": fail},
        r"model\(\) fails with KeyError: 'fold' \(tests/network/test_smoke_test.py:\d+\)",
    ),
    "NaN weights": ({"model": lambda: with_weights(lambda w: w.fill_(math.nan))}, r"weights '1.weight' hold NaN"),
    "another device": ({"model": lambda: network().to("meta")}, r"'1.weight' lies on meta; return it on the CPU"),
    "half precision": ({"model": lambda: network().half()}, r"'1.weight' is torch.float16; .*model.float\(\)"),
    "wrong shapes": (
        {"splits": splits(**{name: split(inputs={"x": torch.zeros(6, 3, 3, 3)}) for name in splits()(0)})},
        r"the model, given x \(2, 3, 3, 3\), fails with RuntimeError: mat1 and mat2 shapes",
    ),
    "an empty calibration split": ({"splits": splits(calibration=split(0))}, r"'calibration' split is empty"),
    "a split of another shape": (
        {"splits": splits(evaluation=split(inputs={"x": torch.zeros(6, 3, 4, 4)}))},
        r"'x' is N x 3 x 4 x 4 of float32 in the 'evaluation' split, and N x 3 x 2 x 2 of float32 in the 'train'",
    ),
    "inputs without names": ({"splits": splits(train=split(inputs=torch.zeros(6, 3)))}, r"must be a Split\("),
    "inputs that are no tensors": (
        {"splits": splits(train=split(inputs={"x": [1, 2]}))},
        r"'x' of the 'train' split must be a tensor, and is of type list",
    ),
    "splits that fail": ({"splits": fail}, r"splits\(\) fails with KeyError"),
    "splits as a list": ({"splits": lambda seed: [split()]}, r"splits\(\) must give a dict of train, .* it gave list"),
    "a metric that returns a string": (
        {"metric": Metric("accuracy", lambda logits, targets: "98 %")},
        r"metric 'accuracy' must return a finite float, and returned '98 %'",
    ),
    "a metric that fails": ({"metric": Metric("accuracy", fail)}, r"the metric 'accuracy' fails with KeyError"),
    "a loss of many numbers": (
        {"loss": lambda logits, targets: logits.sum(1)},
        r"loss must be one number as a tensor, and gave shape \(2,\)",
    ),
    "a loss without gradient": (
        {"loss": lambda logits, targets: logits.detach().sum()},
        r"loss does not depend on the model's weights",
    ),
    "a loss for other targets": (
        {"loss": lambda logits, targets: functional.mse_loss(logits, targets[:, None, None].float() @ logits)},
        r"the loss fails with RuntimeError",
    ),
    "samples that mix": (
        {"model": lambda: Mixing(nn.Flatten(), nn.Linear(12, 3))},
        r"depends on the samples beside it",
    ),
    "dropout that does not stop": (
        {"model": lambda: Giving(lambda answer: functional.dropout(answer, 0.1))},
        r"differs from one run to the next; is there dropout that does not stop",
    ),
    "TorchScript": ({"model": lambda: torch.jit.script(network())}, r"returned TorchScript, .* return the nn\.Module"),
    "an answer that is no tensor": (
        {"model": lambda: Giving(str)},
        r"return a tensor, .* 'output' is of type str",
    ),
    "an answer for the whole batch": ({"model": lambda: Giving(torch.sum)}, r"first dimension must be the number of"),
    "complex": ({"model": lambda: Giving(lambda y: y + 0j)}, r"torch.complex64; give its real and imaginary part"),
    "an infinite answer": ({"model": lambda: Giving(lambda y: y / 0)}, r"holds NaN or infinity already in FP32"),
    "an output named as an input": ({"model": lambda: Giving(lambda y: {"x": y})}, r"'x' names an input and an output"),
    "an augmentation of something else": (
        {"augment": lambda inputs, generator: inputs["x"]},
        r"augment\(\) must give the inputs \['x'\] as a dict",
    ),
}


def test_a_wrapper_for_several_gpus_is_taken_off():
    task = Task(**GOOD | {"model": lambda: nn.DataParallel(network())})
    assert type(try_task(task, make_splits(task, 0))) is nn.Sequential


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_task_gives_one_clear_line(name, tmp_path, monkeypatch):
    changes, message = WRONG[name]
    monkeypatch.setitem(MADE, "task", Task(**GOOD | changes))
    with pytest.raises(UserError, match=message) as error:
        task = load_task(f"{__name__}:made", {})
        try_task(task, make_splits(task, 0))
    assert "\n" not in str(error.value) and str(error.value).startswith("task")


MADE: dict[str, Task] = {}


def made() -> Task:
    return MADE["task"]


def test_a_good_task_passes_all_of_it():
    task = Task(**GOOD)
    assert try_task(task, make_splits(task, 0)).training is False


def write(path, text):
    path.write_text(text)
    return f"{path}:task"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def task(:\n", r"importing .*own\.py fails with SyntaxError: .*own\.py:1\)"),
        ("import nowhere_at_all\n", r"fails with ModuleNotFoundError: No module named 'nowhere_at_all' \(own\.py:1\)"),
        ("tusk = 1\n", r"own\.py' has no 'task'"),
        ("task = 1\n", r"'task' of .*own\.py' must be a function that returns a Task"),
        ("def task():\n    return 1 / 0\n", r"fails with ZeroDivisionError: division by zero \(own\.py:2\)"),
        (
            "from bitladder.tasks.task import Task\ndef task():\n    return Task(model=len, splits=len, metric=len)\n",
            r"fails with TypeError: .* missing 1 required positional argument: 'loss' \(own\.py:3\)",
        ),
    ],
)
def test_a_wrong_task_file_gives_one_line_with_its_own(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_task(write(tmp_path / "own.py", text), {})
    assert "\n" not in str(error.value)


def test_a_task_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "helper_of_own.py").write_text("NAME = 'mine'\n")
    text = (
        "from bitladder.tasks.task import Metric, Task\nfrom helper_of_own import NAME\n"
        "def task(size):\n    return Task(len, len, len, Metric(f'{NAME}{size}', len, higher_is_better=False))\n"
    )
    task = load_task(write(tmp_path / "own.py", text), {"size": 3})
    assert task.metric.name == "mine3" and task.metric.drop(1.0, 3.0) == 2.0


def test_a_missing_task_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.py: no such file; the path is from the folder"):
        load_task(f"{tmp_path}/nothing.py:task", {})

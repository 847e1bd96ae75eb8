"""What the model card says of the network."""

from functools import partial

import pytest
from torch import nn

from bitladder.bundle.write import _described
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Metric, Task


def described() -> nn.Module:
    """Build a network
    for digits."""
    return nn.Flatten()


class Described(nn.Flatten):
    """A network of a class."""


class Bare(nn.Flatten):
    pass


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (described, "Build a network for digits."),
        (Described, "A network of a class."),
        (Bare, ""),
        (lambda: nn.Flatten(), ""),
        (OnnxModel("net.onnx"), ""),  # what stands above it is bitladder's own
        (partial(nn.Linear, 1, 1), ""),
    ],
)
def test_the_card_quotes_the_author_and_nobody_else(model, says):
    assert _described(Task(model, len, len, Metric("none", len))) == says

"""What layers see, and what their outputs are added to."""

import pytest
import torch
from aimet_torch.nn.modules.custom import Add
from torch import nn

from bitladder.quantize.techniques.observe import added_to, positions, windows


class Block(nn.Module):
    """Two layers that are added up, in one of the ways that networks do it."""

    def __init__(self, way):
        super().__init__()
        self.way, self.first, self.second, self.add = way, nn.Linear(8, 8), nn.Linear(8, 8), Add()
        self.between = {"dropout": nn.Dropout(), "in place": nn.ReLU(inplace=True)}.get(way, nn.Identity())
        self.after = nn.ReLU()

    def forward(self, x):
        x = self.first(x)
        y = self.between(self.second(x))
        if self.way == "twice":
            y = self.second(y)
        if self.way == "changed":
            y.flatten(1).mul_(2)
        total = self.add(x, y) if self.way != "turned" else self.add(y, x)
        if self.way == "used":
            return self.after(y), total
        if self.way == "viewed":
            return y.flatten(1), total
        return (y, total) if self.way == "returned" else total


@pytest.mark.parametrize("way", ["plain", "turned", "dropout"])
def test_the_later_summand_is_found_with_what_it_is_added_to(way):
    assert added_to(Block(way).eval(), (torch.randn(1, 8),), {"first", "second"}) == {"second": "first"}


@pytest.mark.parametrize("way", ["in place", "changed", "twice", "used", "viewed", "returned"])
def test_a_layer_whose_output_goes_elsewhere_too_is_left_alone(way):
    assert added_to(Block(way).eval(), (torch.randn(1, 8),), {"first", "second"}) == {}


def test_what_is_not_made_by_a_module_is_left_alone():
    class Around(Block):
        def forward(self, x):
            return self.add(x, self.first(x))

    assert added_to(Around("plain").eval(), (torch.randn(1, 8),), {"first"}) == {}


def test_an_addition_that_gets_a_summand_by_its_name_is_passed_over():
    class Named(Block):
        def forward(self, x):
            return self.add(self.first(x), y=self.second(x))

    assert added_to(Named("plain").eval(), (torch.randn(1, 8),), {"first", "second"}) == {}


def test_summands_of_other_shapes_are_left_alone():
    class Broadcast(Block):
        def forward(self, x):
            return self.add(self.first(x), self.second(x[:1]))

    assert added_to(Broadcast("plain").eval(), (torch.randn(3, 8),), {"first", "second"}) == {}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (5, 7, 6)),
        (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), (5, 6, 9, 9)),
        (nn.Conv1d(6, 4, 3, dilation=2), (5, 6, 9)),
    ],
)
def test_inputs_and_outputs_are_looked_at_in_the_same_places(layer, shape):
    """Then a layer's weights make its outputs of its inputs."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    with torch.no_grad():
        seen, given = windows(layer, x, 0, "layer"), positions(layer, layer(x), 0, "layer")
        made = layer.weight.reshape(len(seen), -1, seen.shape[1]) @ seen + layer.bias.reshape(len(seen), -1, 1)
    assert torch.allclose(made, given, atol=1e-5)
    assert not torch.equal(seen, windows(layer, x, 1, "layer"))

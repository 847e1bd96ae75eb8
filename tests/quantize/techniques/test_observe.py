"""What layers see, and what their outputs are added to."""

import pytest
import torch
from aimet_torch.nn.modules.custom import Add
from torch import nn

from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.techniques import observe
from bitladder.quantize.techniques.observe import Positions, added_to, positions, windows
from bitladder.tasks.task import Split


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


LAYERS = [
    (nn.Linear(6, 4), (5, 7, 6)),
    (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), (5, 6, 9, 9)),
    (nn.Conv1d(6, 4, 3, dilation=2), (5, 6, 9)),
]


def places(layer, size, seed=0):
    """Positions of a layer's output of 5 samples."""
    return Positions(layer, seed, "layer", Batches(Split({"x": torch.zeros(5)}, torch.zeros(5)), size))


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_inputs_and_outputs_are_looked_at_in_the_same_places(layer, shape, monkeypatch):
    """Then a layer's weights make its outputs of its inputs."""
    monkeypatch.setattr(observe, "POSITIONS", 20)
    torch.manual_seed(0)
    x = torch.randn(shape)
    with torch.no_grad():
        y = layer(x)
        drawn = places(layer, shape[0]).draw(y)
        seen, given = windows(layer, x, drawn), positions(layer, y, drawn)
        made = layer.weight.reshape(len(seen), -1, seen.shape[1]) @ seen + layer.bias.reshape(len(seen), -1, 1)
    assert torch.allclose(made, given, atol=1e-5)
    other = places(layer, shape[0], seed=1).draw(y)
    assert not torch.equal(torch.cat(drawn), torch.cat(other))


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_batches_are_looked_at_where_all_samples_together_are(layer, shape, monkeypatch):
    monkeypatch.setattr(observe, "POSITIONS", 20)
    y = layer(torch.randn(shape))
    whole = positions(layer, y, places(layer, shape[0]).draw(y))
    drawn = places(layer, 2)
    parts = [positions(layer, part, drawn.draw(part)) for part in y.split(2)]
    assert whole.shape[2] <= 20
    assert sorted(whole[0, 0].tolist()) == sorted(torch.cat(parts, 2)[0, 0].tolist())


def test_a_layer_that_sees_no_samples_is_looked_at_in_each_batch():
    """As one that multiplies a table of places by its weights, which has one row whatever the batch."""
    layer, once = nn.Linear(6, 4), torch.randn(1, 4)
    drawn = places(layer, 2)
    assert [len(drawn.draw(once)[0]) for _ in range(3)] == [1, 1, 1]

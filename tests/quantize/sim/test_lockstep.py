"""Two networks side by side: which layers are visited, on what, and what is kept meanwhile."""

import copy

import pytest
import torch
from torch import nn

from bitladder.quantize.sim import lockstep
from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.graph import graph_of
from bitladder.quantize.sim.lockstep import in_lockstep
from bitladder.quantize.sim.spill import Spill, Spilled
from bitladder.tasks.task import Split

ORDER = ["first", "beside", "second"]


class Network(nn.Module):
    """Two layers after each other and a third beside them; `way` says how else it is written."""

    def __init__(self, way="plain"):
        super().__init__()
        self.way, self.relu = way, nn.ReLU(inplace=True)
        self.second, self.first, self.beside = nn.Linear(6, 6), nn.Linear(4, 6), nn.Linear(4, 6)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        if self.way == "cannot be traced" and x.sum() > 1e9:
            return x
        if self.way == "takes another branch" and not isinstance(x, torch.Tensor):
            return self.second(self.first(x))
        y = self.first(x)
        self.relu(y)  # what reads y from here on reads what this has made of it
        low, high = self.beside(x).chunk(2, 1)
        return self.second(y) * 2 + torch.cat([high, low], 1)


class Inner(Network):
    """One that changes its input in place."""

    def forward(self, x):
        return super().forward(x.mul_(1.5))


class Outer(nn.Module):
    """A network in which another, which torch.fx cannot look into, is one call."""

    def __init__(self):
        super().__init__()
        self.start, self.inner, self.last = nn.Linear(4, 4), Inner("cannot be traced"), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.inner(self.start(x)))


def outer_graph():
    """Give it as AIMET's preparer does where `prepare.exclude` names the inner network."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m, module_qualified_name):
            return isinstance(m, Inner) or super().is_leaf_module(m, module_qualified_name)

    network = Outer()
    return torch.fx.GraphModule(network, Tracer().trace(network))


NETWORKS = {
    "plain": (Network, ORDER),
    "takes another branch": (lambda: Network("takes another branch"), ORDER),
    "cannot be traced": (lambda: Network("cannot be traced"), ORDER),
    "has one inside that cannot": (outer_graph, ["start", *(f"inner.{name}" for name in ORDER), "last"]),
}


def inputs_of(network, layers, batches):
    """Give what comes to layers of a network that runs all samples as one batch."""
    found = {}
    for name in layers:
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: found.update({name: inputs[0].clone()})
        )
    network(torch.cat([x for (x,) in batches]))
    return found


@pytest.mark.parametrize("held", [0, 1000, 1 << 30])
@pytest.mark.parametrize("size", [3, 10])
@pytest.mark.parametrize("way", NETWORKS)
def test_each_layer_sees_what_those_before_it_were_changed_to(way, size, held, tmp_path, monkeypatch):
    monkeypatch.setattr(lockstep, "HELD", held)
    torch.manual_seed(0)
    make, order = NETWORKS[way]
    reference = make().requires_grad_(False)
    model, batches = copy.deepcopy(reference), Batches(Split({"x": torch.randn(10, 4)}, torch.zeros(10)), size)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = {}

    def visit(layer):
        before = torch.cat([seen.inputs[0] for seen in layer.batches()])
        parts = [(seen.float_inputs[0], seen.float_output, seen.inputs[0]) for seen in layer.batches()]
        found[layer.name] = [torch.cat(part) for part in zip(*parts, strict=True)]
        assert torch.equal(before, found[layer.name][2])  # to look changes nothing
        layers[layer.name].weight.mul_(2)

    in_lockstep(reference, model, layers, batches, tmp_path, visit)
    assert list(found) == order  # the unused one is not visited
    floats, changed = (inputs_of(network, order, batches) for network in (reference, model))
    for name, (float_inputs, float_output, inputs) in found.items():
        assert torch.allclose(float_inputs, floats[name], atol=1e-5)
        assert torch.allclose(float_output, reference.get_submodule(name)(floats[name]), atol=1e-5)
        assert torch.allclose(inputs, changed[name], atol=1e-5)
    assert not torch.allclose(changed[order[-1]], floats[order[-1]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("way", "calls"), [("plain", 3), ("takes another branch", 1), ("cannot be traced", 1)])
def test_a_graph_does_what_the_network_does_or_is_one_call(way, calls):
    network = Network(way)
    graph = graph_of(network, (torch.randn(1, 4),))
    assert sum(isinstance(node.target, str) and node.op == "call_module" for node in graph.nodes) >= calls
    assert calls > 1 or len(graph.nodes) == 3


def test_memory_holds_a_part_of_what_is_kept_between_layers(tmp_path, monkeypatch):
    """And what no later layer reads is kept nowhere."""
    files, network = [], nn.Sequential(*(nn.Linear(100, 100) for _ in range(4))).requires_grad_(False)
    batches = Batches(Split({"x": torch.randn(100, 100)}, torch.zeros(100)), 10)  # 4,000 bytes each
    monkeypatch.setattr(lockstep, "HELD", 60_000)

    def visit(layer):
        list(layer.batches())
        files.append(sum(1 for path in tmp_path.rglob("*.safetensors")))

    layers = [name for name, _ in network.named_children()]
    in_lockstep(network, copy.deepcopy(network), layers, batches, tmp_path, visit)
    # at a layer: its input in both networks, and what the float one has made of it; 15 of these 30 are in memory
    assert files == [15] * 4


def test_spilled_values_come_back_as_they_were(tmp_path):
    spill = Spill(tmp_path, limit=100)
    values = [torch.randn(5, 5).t(), torch.arange(3), torch.tensor([True, False])]
    kept = spill.keep([values[0], (values[1], 7), values[2], None])
    assert kept[0] is values[0] and kept[3] is None
    assert isinstance(kept[1][0], Spilled) and kept[1][1] == 7
    back = spill.load(kept)
    assert torch.equal(back[1][0], values[1]) and torch.equal(back[2], values[2])
    spill.drop(kept)
    assert not list(tmp_path.iterdir())
    assert spill.keep(values[0]) is values[0]  # there is room again

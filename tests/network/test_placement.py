"""Where networks run. No GPU is at hand in the tests: torch's `meta` device and fake tensors stand for one."""

import os

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bitladder.errors import UserError
from bitladder.network import placement
from bitladder.network.placement import compute_device, on_device, placed
from bitladder.quantize.sim.batches import Batches
from bitladder.running.determinism import check_device
from bitladder.tasks.samples import Split


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(placement, "compute_device", lambda: torch.device("meta"))


def test_a_network_and_its_batches_go_to_the_device(elsewhere):
    network = placed(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval())
    assert {values.device.type for values in network.state_dict().values()} == {"meta"}
    for batch in Batches(Split({"x": torch.randn(10, 4)}, torch.arange(10)), 4):
        assert network(*batch).device.type == "meta"
    assert on_device((torch.zeros(1), torch.zeros(1)))[1].device.type == "meta"


def test_without_a_gpu_it_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("cpu")
    assert compute_device() == torch.device("cpu")
    with pytest.raises(
        UserError, match=r"compute\.device: cuda, and torch finds no GPU here; set compute\.device: cpu"
    ):
        check_device("cuda")


def test_the_gpu_is_hidden_where_the_cpu_was_asked_for(python):
    code = "from bitladder.running.determinism import pin; pin(1, {!r}); import os; print(os.environ.get({!r}))"
    hidden, fixed = "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"
    env = {name: value for name, value in os.environ.items() if name not in (hidden, fixed)}
    assert python(code.format("cpu", hidden), env=env).stdout == "\n"
    assert python(code.format("cuda", hidden), env=env).stdout == "None\n"
    assert python(code.format("cuda", fixed), env=env).stdout == ":4096:8\n"


def test_what_gptq_makes_of_tensors_of_a_gpu_lies_there():
    from bitladder.quantize.techniques.gptq import _refined, _rounded
    from bitladder.quantize.techniques.gptq_scales import Channels

    with FakeTensorMode(), torch.device("cuda"):
        target, moments = torch.randn(1, 5, 6).double(), torch.randn(1, 6, 6).double()
        scale = torch.rand(1, 5, 1).double()
        best = Channels(True).best(target, moments, scale, -7, 7)
        found = _refined(_rounded(target, moments, best, -7, 7), target, moments, best, -7, 7, Channels(True))
    assert {one.device.type for one in (best, *found)} == {"cuda"}

"""QAT in two processes, through torchrun: one network in both, and what one process trains."""

import subprocess
import sys

import pytest
import torch

SCRIPT = """
from bitladder.running import determinism
determinism.pin(1)
import os, sys
from pathlib import Path
import torch
from torch import nn
from torch.nn import functional
from bitladder.network.training import Recipe
from bitladder.precision import Precision
from bitladder.quantize.qat import train_quantized
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.task import Metric, Split, Task

generator = torch.Generator().manual_seed(0)
images = torch.rand(250, 3, 8, 8, generator=generator)
targets = (images[:, 0].mean((1, 2)) > images[:, 1].mean((1, 2))).long()
split = Split({"x": images}, targets)
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
accuracy = Metric("accuracy", lambda outputs, targets: (outputs.argmax(1) == targets).double().mean().item())
task = Task(lambda: network, lambda seed: {}, functional.cross_entropy, accuracy)
sim = build_sim(network.eval(), (images[:1],), Precision(4, 8), "htp_v75")
sim.calibrate(split, 50)
recipe = Recipe(epochs=3, batch_size=25, learning_rate=5e-3, weight_decay=0.0, seed=0)
folder = Path(sys.argv[1])
(folder / "work").mkdir(exist_ok=True, parents=True)
result = train_quantized(sim, task, (split, split), recipe, 50, folder / "work")
history = [vars(epoch) for epoch in result.history]
torch.save((sim.model.state_dict(), result.best, history), folder / ("rank" + os.environ.get("RANK", "0")))
"""


def train(folder, *launcher):
    (folder.parent / "script.py").write_text(SCRIPT)
    words = [sys.executable, *launcher, str(folder.parent / "script.py"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(path, weights_only=False) for path in sorted(folder.glob("rank*"))]


def test_two_processes_train_one_network_as_one_process_does(tmp_path):
    """Batches of 25 do not divide by two: the shares are weighted, so the gradient is that of the whole batch."""
    ((_, best, history),) = train(tmp_path / "alone")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    (first, one, found), (second, other, same) = train(tmp_path / "two", *launcher)
    assert found == same
    assert one == other > 0
    tensors = {name: values for name, values in first.items() if isinstance(values, torch.Tensor)}
    assert tensors
    assert all(torch.equal(values, second[name]) for name, values in tensors.items())
    assert best > 0
    for key, noise in (("loss", 0.05), ("value", 0.02)):  # sums in another order, and a rounding to 4 bits that tips
        assert [epoch[key] for epoch in found] == pytest.approx([epoch[key] for epoch in history], abs=noise), key

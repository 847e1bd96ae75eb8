"""The same bits on another processor: nothing is left that rests on the processor's own estimates or kernels."""

import os

import pytest

import other_cpu
from bitladder.running.determinism import INSTRUCTION_SET

ROOTS = """
from bitladder.running.determinism import pin, seed_all
pin(1)
import torch
seed_all(0)
values = torch.rand(100_000)
for name in ("sqrt", "log2", "log10", "tan", "asin", "acos", "atan"):
    rounded = getattr(torch, name)(values.double()).float()
    assert torch.equal(getattr(torch, name)(values), rounded), name
    assert torch.equal(getattr(torch, name + "_")(values.clone()), rounded), name
    assert torch.equal(getattr(torch, name)(values, out=torch.empty(0)), rounded), name
"""


def test_roots_are_those_of_no_processors_estimate(python):
    """MKL's, which start from one, are a bit off in a fifth of all values."""
    done = python(ROOTS)
    assert done.returncode == 0 and done.stderr == "", done.stderr


LIKE = """
from bitladder.running.determinism import seed_all
import torch
seed_all(0)
image = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
assert image.sqrt().stride() == image.stride()
values = torch.tensor([4.0, 9.0], requires_grad=True)
values.sqrt().sum().backward()
print(values.grad.tolist(), torch.tensor(4).sqrt(), torch.tensor([4.0]).half().sqrt_().dtype, torch.tensor(-1.0).sqrt())
"""


def test_they_are_else_as_torchs(python):
    done = python(LIKE)
    assert done.stdout == "[0.25, 0.1666666716337204] tensor(2.) torch.float16 tensor(nan)\n", done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("first", ["numpy", "torch"])
def test_pinned_settings_must_come_before_what_reads_them(python, first):
    unpinned = {name: value for name, value in os.environ.items() if name not in INSTRUCTION_SET}
    done = python(f"import {first}\nfrom bitladder.running.determinism import pin\npin(1)", env=unpinned)
    assert "pin() must be called before numpy and torch are imported" in done.stderr


BITS = """
from bitladder.running.determinism import pin, seed_all
pin(2)
import hashlib
import numpy as np
import onnx.parser
import torch
from torch import nn
from bitladder.tasks.onnx_file import open_session
seed_all(0)
torch.set_num_threads(2)
found = hashlib.sha256()
numbers = np.random.default_rng(0).normal(size=(300, 300))
for values in (numbers, numbers.astype(np.float32)):
    for made in (np.exp(values), np.log(abs(values)), np.tanh(values), np.sin(values), values @ values, values.sum(1)):
        found.update(made.tobytes())
    found.update(np.linalg.inv(values).tobytes())
network = nn.Sequential(
    nn.Conv2d(3, 32, 3, 2), nn.BatchNorm2d(32), nn.SiLU(), nn.Conv2d(32, 32, 3, groups=32), nn.GELU(),
    nn.Conv2d(32, 64, 1), nn.Sigmoid(), nn.Flatten(2), nn.Linear(169, 64), nn.LayerNorm(64), nn.Softmax(-1),
    nn.Flatten(), nn.Linear(4096, 10),
)
images, labels = torch.rand(64, 3, 32, 32), torch.randint(10, (64,))
optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()
for values in network.state_dict().values():
    found.update(values.numpy().tobytes())
graph = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> net (float[8,16,24,24] x, float[32,16,3,3] w, float[22,40] m)'
    " => (float[8,32,22,40] y) { c = Conv(x, w) e = Erf(c) p = MatMul(e, m) y = Tanh(p) }"
)  # no Softmax: ONNX Runtime's is another with AVX-512, and no setting changes that
sizes = {"x": (8, 16, 24, 24), "w": (32, 16, 3, 3), "m": (22, 40)}
fed = {name: np.random.default_rng(1).normal(size=size).astype(np.float32) for name, size in sizes.items()}
found.update(open_session(graph.SerializeToString()).run(None, fed)[0].tobytes())
found.update(torch.linalg.cholesky(torch.cov(torch.rand(50, 200))).numpy().tobytes())
print(found.hexdigest())
"""


@pytest.mark.skipif(bool(other_cpu.why_not()), reason=str(other_cpu.why_not()))
@pytest.mark.parametrize("kind", other_cpu.KINDS)
def test_another_processor_gives_the_same_bits(python, kind):
    here, there = python(BITS), python(BITS, env=os.environ | other_cpu.settings(kind))
    assert here.returncode == 0, here.stderr
    assert there.stdout == here.stdout, there.stderr

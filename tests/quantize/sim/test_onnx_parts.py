"""What stands between the layers of a network that came as ONNX."""

from pathlib import Path

import torch
from onnx import helper

from bitladder.quantize.sim.onnx_parts import Part

MB = 2**20


def held():
    """Give what this process holds in memory, in bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def test_outputs_that_were_held_and_let_go_take_no_memory_in_each_part():
    proto = helper.make_model(helper.make_graph([], "net", [], []), opset_imports=[helper.make_opsetid("", 21)])
    parts = [Part(proto, [helper.make_node("Relu", ["x"], ["y"])], ["x"], ["y"], []) for _ in range(8)]
    x = torch.ones(1, MB // 4)
    for part in parts:
        assert torch.equal(part(x), x)
    before = held()
    for part in parts:
        outputs = [part(x) for _ in range(20)]
        assert len(outputs) == 20
        del outputs
    assert held() - before < 80 * MB  # all together had 160

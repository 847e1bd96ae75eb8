"""PReLUs as trained networks have them: a slope for each channel, some next to nothing, some negative."""

import pytest
import torch
from torch import nn

from bitladder.export.checks import run_unoptimised
from bitladder.export.repairs import repair_file
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import sample_inputs
from bitladder.params import RULES
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.socs import find_soc
from bitladder.targets.backend import compile_context
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Split


def network():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(72, 16), nn.PReLU(16))
    made = nn.Sequential(*layers, nn.Linear(16, 4)).eval()
    for prelu in (made[1], made[5]):
        prelu.weight.data = torch.linspace(-0.4, 0.6, prelu.num_parameters)
        prelu.weight.data[3] = 1e-5
    return made


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_slopes_of_all_sizes_keep_their_function_on_the_npu(kind, tmp_path):
    model, split, path = network(), Split({"image": torch.randn(8, 3, 9, 9)}, torch.zeros(8)), tmp_path / "model.onnx"
    sample, soc = sample_inputs(split), find_soc("SM8650")
    if kind == "onnx":
        given = str(tmp_path / "net.onnx")
        torch.onnx.export(model, sample, given, input_names=["image"], output_names=["output"], dynamo=False)
        model = OnnxModel(given)()
    prepared, _ = prepare(model, sample)
    sim = build_sim(prepared, sample, Precision(8, 8), soc.quantsim_config)
    sim.calibrate(split, 8)
    sim.export_qdq(sample, (["image"], ["output"]), path)
    repair_file(path, soc, tuple(RULES))
    simulated = predict(sim.model, split, 8, "")
    assert sqnr_db(simulated, run_unoptimised(path, split)) > 80  # by the range of the smallest slope it is 1.6
    (tmp_path / "npu").mkdir()
    assert compile_context(str(path), str(tmp_path / "npu"), soc.soc_model, False)["cpu"] == []

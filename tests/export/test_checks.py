"""What an exported graph must hold, on graphs that real AIMET exports, right and wrong."""

import copy

import onnxruntime
import pytest
import torch
from torch import nn

from bitladder.errors import UserError
from bitladder.export.checks import check_bias_scales, check_outputs, graph_names, run_unoptimised
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.params import load_params
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.targets.context import compile_model, run
from bitladder.tasks.task import Split

NAMES = (["image"], ["output"])


class Padded(nn.Module):
    """Its second convolution has a Pad before it, and so no quantizer of its own at the input: the trap's condition."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 8, 3), nn.ReLU()
        self.pad, self.padded_conv = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, stride=2)
        self.flatten, self.head = nn.Flatten(), nn.Linear(8 * 49, 10)

    def forward(self, x):
        return self.head(self.flatten(self.padded_conv(self.pad(self.relu(self.conv(x))))))


@pytest.fixture(scope="module")
def padded():
    """Give a function that exports the network at W8A16, with int32 or float biases; it gives samples and QuantSim."""
    torch.manual_seed(0)
    split = Split({"image": torch.randn(8, 3, 16, 16)}, torch.zeros(8))
    sample = (split.inputs["image"][:1],)
    model, _ = prepare(Padded().eval(), sample)
    sim = build_sim(model, sample, Precision(8, 16), "htp_v75")
    sim.calibrate(split, 8)

    def export(path, int32_bias):
        sim.export_qdq(sample, NAMES, path, int32_bias)
        return split, sim.model

    return export


def npu_sqnr(path, split, simulated, folder, params):
    compiled = compile_model(path, folder, params.soc, False, 60, folder.parent)
    return sqnr_db(
        predict(simulated, split, 8, ""), run(compiled, params.soc, False, split, params.target, folder.parent)
    )


def test_the_wrong_export_is_refused_and_the_npu_would_have_answered_nonsense(padded, tmp_path, params_with):
    path = tmp_path / "wrong.onnx"
    split, simulated = padded(path, int32_bias=True)
    with pytest.raises(UserError, match=r"the integer bias of /padded_conv/Conv \(1 layers in all\) is not in units"):
        check_bias_scales(path)
    assert npu_sqnr(path, split, simulated, tmp_path / "t", load_params(params_with({}))) < 10


def test_the_right_export_passes_and_the_npu_answers_as_the_simulation(padded, tmp_path, params_with):
    path = tmp_path / "right.onnx"
    split, simulated = padded(path, int32_bias=False)
    check_bias_scales(path)
    assert check_outputs(path, split, simulated, 8, 60).sqnr_db > 60
    assert npu_sqnr(path, split, simulated, tmp_path / "t", load_params(params_with({}))) > 60


def test_integer_biases_of_the_right_scale_pass(trained, tmp_path):
    """Every convolution of this network has a quantizer at its input, so AIMET's int32 biases are right."""
    sim = build_sim(copy.deepcopy(trained.prepared), trained.sample, Precision(8, 8), "htp_v75")
    sim.calibrate(trained.splits["calibration"], 100)
    sim.export_qdq(trained.sample, NAMES, tmp_path / "model.onnx", int32_bias=True)
    check_bias_scales(tmp_path / "model.onnx")


def test_the_graph_is_checked_on_the_threads_that_are_pinned(padded, tmp_path, monkeypatch):
    """Or a machine with more cores writes other figures into metrics/export: at 4 threads, sums end in other bits."""
    split, _ = padded(tmp_path / "model.onnx", int32_bias=False)
    opened = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, graph, options, **more):
            opened.append(options.intra_op_num_threads)
            super().__init__(graph, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    run_unoptimised(tmp_path / "model.onnx", split.first(1))
    assert opened == [torch.get_num_threads()]


def test_a_graph_that_answers_otherwise_is_refused_with_the_figures(padded, tmp_path):
    split, simulated = padded(tmp_path / "right.onnx", int32_bias=False)
    other = nn.Sequential(simulated)
    other.register_forward_hook(lambda module, inputs, output: output / 1.1)
    with pytest.raises(UserError, match=r"right\.onnx: outputs differ .* 20\.0 dB on 8 samples"):
        check_outputs(tmp_path / "right.onnx", split, other, 3, 40)


def test_encodings_stand_beside_a_float_graph_as_the_converters_want(trained, tmp_path):
    sim = build_sim(copy.deepcopy(trained.prepared), trained.sample, Precision(4, 8), "htp_v75")
    sim.calibrate(trained.splits["calibration"], 100)
    sim.export_encodings(trained.sample, NAMES, tmp_path / "aimet")
    assert sorted(path.name for path in (tmp_path / "aimet").iterdir()) == ["model.encodings", "model.onnx"]


def test_the_same_sim_gives_the_same_bytes(padded, tmp_path):
    padded(tmp_path / "1.onnx", int32_bias=False)
    padded(tmp_path / "2.onnx", int32_bias=False)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_a_name_cannot_stand_for_an_input_and_an_output():
    with pytest.raises(UserError, match="'output' names an input and an output"):
        graph_names(["output"], ["output"])


def test_outputs_in_one_another_and_an_input_without_use_go_through_to_the_graph(tmp_path):
    class Answering(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.second = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)

        def forward(self, image, info, mask):
            x = self.relu(self.first(image))
            return {"y": self.second(x), "none": None, "hidden": (x, [x * mask])}

    generator = torch.Generator().manual_seed(0)
    images, masks = torch.randn(8, 3, 8, 8, generator=generator), torch.rand(8, 1, 6, 6, generator=generator)
    split = Split({"image": images, "info": torch.zeros(8, 2), "mask": masks}, torch.zeros(8))
    model, sample = Answering().eval(), tuple(values[:1] for values in split.inputs.values())
    reference = predict(model, split, 8, "")
    prepared, _ = prepare(model, sample)
    sim = build_sim(prepared, sample, Precision(8, 8), "htp_v75")
    sim.calibrate(split, 8)
    simulated = predict(sim.model, split, 8, "")
    assert list(reference) == list(simulated) == ["y", "hidden_0", "hidden_1_0"]
    assert sqnr_db(reference, simulated) > 25
    sim.export_qdq(sample, (list(split.inputs), list(simulated)), tmp_path / "model.onnx")
    assert sqnr_db(simulated, run_unoptimised(tmp_path / "model.onnx", split)) > 40

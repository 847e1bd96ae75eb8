"""What users' networks do that AIMET does not like: each goes through, or is refused by the name of its layer."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bitladder.errors import UserError
from bitladder.export.checks import check_bias_scales, graph_names, run_unoptimised
from bitladder.export.fp16 import HalfPrecision, export_fp16
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import output_names, sample_inputs
from bitladder.params import load_params
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.quantize.sim.unused import unused_layers
from bitladder.quantize.verify import verify
from bitladder.socs import find_soc
from bitladder.targets.context import compile_model, run
from bitladder.tasks.task import Metric, Quantization, Split, load_task

W8A8 = Precision(8, 8)


class TwoByTwo(nn.Module):
    """Two inputs, a dict of two outputs whose order is not that of the alphabet, functional calls and `+`."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, image, facts):
        x = torch.relu(self.conv(image) + self.linear(facts)[:, :, None, None])
        return {"scores": x.mean((2, 3)), "map": x}


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        if x.sum() > 1e9:
            return self.conv(x) * 3
        return self.conv(x) * 2


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.branch = nn.Conv2d(3, 4, 3), Branch()

    def forward(self, x):
        return self.branch(self.conv(x)) + 1


class Swirl(nn.Module):
    """A module type that AIMET does not know."""

    def forward(self, x):
        return torch.erf(x)


def of(**inputs) -> Split:
    return Split(inputs, torch.zeros(len(next(iter(inputs.values())))))


def images(count: int = 8) -> Split:
    return of(x=torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


def sim_of(model, split, quantization=None, precision=W8A8):
    prepared, _ = prepare(model.eval(), sample_inputs(split), quantization=quantization)
    sim = build_sim(prepared, sample_inputs(split), precision, "htp_v75")
    sim.calibrate(split, 8)
    return sim


def test_several_inputs_and_a_dict_of_outputs_go_through_to_the_npu(default_params, params_with, tmp_path):
    torch.manual_seed(0)
    model, split = TwoByTwo().eval(), of(image=torch.randn(8, 3, 8, 8), facts=torch.randn(8, 5))
    expected = predict(model, split, 4, "")
    sim = sim_of(model, split, precision=Precision(8, 16))
    simulated = predict(sim.model, split, 4, "")
    assert list(simulated) == ["scores", "map"]
    assert sqnr_db(expected, simulated) > 40
    path, sample = tmp_path / "model.onnx", sample_inputs(split)
    names = graph_names(list(split.inputs), list(output_names(sim.model)))
    sim.export_qdq(sample, names, path)
    check_bias_scales(path)
    answers = run_unoptimised(path, split)
    assert list(answers) == ["scores", "map"] and answers["map"].shape == (8, 4, 8, 8)
    assert sqnr_db(simulated, answers) > 60
    soc, settings = find_soc("SM8650"), load_params(params_with({})).target
    compiled = compile_model(path, tmp_path / "target", soc, False, 100, tmp_path)
    assert (
        sqnr_db({k: v[:2] for k, v in simulated.items()}, run(compiled, soc, False, split.first(2), settings, tmp_path))
        > 40
    )
    (tmp_path / "fp16").mkdir()
    half = HalfPrecision(TwoByTwo())
    export_fp16(half, sample, names, tmp_path / "fp16/model.onnx")
    assert list(run_unoptimised(tmp_path / "fp16/model.onnx", split.first(2))) == ["scores", "map"]


def test_the_line_that_cannot_be_traced_is_named_with_the_option_that_goes_round_it():
    pattern = (
        r"test_guidelines\.py:\d+ \(if x\.sum\(\) > 1e9:\), in module 'branch'; .*prepare: \{exclude: \[branch\]\}"
    )
    with pytest.raises(UserError, match=pattern) as error:
        prepare(Branching().eval(), sample_inputs(images()))
    assert "\n" not in str(error.value)


class Inverse(nn.Module):
    """Calls what has no module in AIMET and none of ours."""

    def forward(self, x):
        return torch.erfinv(torch.tanh(x) * 0.5)


def test_a_call_that_no_module_stands_for_is_named_by_its_line():
    with pytest.raises(
        UserError, match=r"a functional call that it knows no module for \(erfinv in test_guidelines\.py:\d+\)"
    ):
        prepare(Inverse().eval(), sample_inputs(images()))


def test_what_is_left_out_of_preparing_is_said_to_have_no_quantizers():
    model, split = Branching().eval(), images()
    expected = predict(model, split, 8, "")
    prepared, preparation = prepare(model, sample_inputs(split), ["branch"])
    assert str(preparation) == "prepared for AIMET, no quantizers for branch (Mul)"
    assert sqnr_db(expected, predict(prepared, split, 8, "")) > 100


def test_a_module_to_leave_out_that_is_not_there_is_named_with_its_likes():
    with pytest.raises(UserError, match=r"prepare\.exclude: the model has no module 'brunch'; near it are branch"):
        prepare(Branching().eval(), sample_inputs(images()), ["brunch"])


def test_layers_of_unknown_types_are_refused_by_name_unless_they_stay_in_float():
    def model():
        return nn.Sequential(nn.Conv2d(3, 4, 3), Swirl())

    with pytest.raises(UserError, match=r"no quantized definition of 1 \(Swirl\); register one .* Quantization.define"):
        sim_of(model(), images())
    assert isinstance(sim_of(model(), images(), Quantization(exclude=["1"])).model[1], Swirl)


def test_a_layer_that_only_training_uses_gets_no_quantizers():
    class Aux(nn.Sequential):
        def forward(self, x):
            y = self[1](self[0](x))
            return (y, self[2](y)) if self.training else y

    model = sim_of(Aux(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)), images())
    assert model.model[0].param_quantizers["weight"].is_initialized()
    assert not hasattr(model.model[2], "param_quantizers") or model.model[2].param_quantizers["weight"] is None


def test_a_layer_whose_weights_are_read_is_used():
    class Reads(nn.Sequential):
        def forward(self, x):
            return torch.nn.functional.conv2d(x, self[0].weight)

    layers = Reads(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)).eval()
    assert unused_layers(layers, sample_inputs(images())) == ["1"]


def test_a_sum_with_a_number_and_a_module_on_sizes_need_no_range():
    class Shuffle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            x = self.conv(x) + 1
            batch, channels, height, width = x.shape
            return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)

    model = Shuffle().eval()
    expected = predict(model, images(), 8, "")
    assert sqnr_db(expected, predict(sim_of(model, images()).model, images(), 8, "")) > 25


def test_layer_norm_called_as_a_function_becomes_a_layer_with_quantizers():
    """As torchvision's LayerNorm2d, of which ConvNeXt is made, calls it."""

    class OverChannels(nn.LayerNorm):
        def forward(self, x):
            x = nn.functional.layer_norm(
                x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, eps=self.eps
            )
            return x.permute(0, 3, 1, 2)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), OverChannels(4, eps=1e-3), nn.Conv2d(4, 4, 1)).eval()
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
        model[1].bias.uniform_(-1, 1)
    expected = predict(model, images(), 8, "")
    sim = sim_of(model, images())
    norms = [module for module in sim.model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 1 and norms[0].eps == 1e-3 and norms[0].param_quantizers["weight"] is not None
    assert sqnr_db(expected, predict(sim.model, images(), 8, "")) > 25


def test_layers_left_in_float_answer_as_fp32(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    sim = sim_of(model, images(), Quantization(exclude=["2"]))
    assert type(sim.model[2]) is nn.Conv2d
    with pytest.raises(UserError, match=r"Quantization\.exclude: there is no layer '7'; there are 0, 1, 2"):
        sim_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)), images(), Quantization(exclude=["7"]))


def test_the_tasks_own_quantsim_config_is_used(tmp_path):
    config = {
        "defaults": {
            "ops": {"is_output_quantized": "True"},
            "params": {"is_quantized": "True", "is_symmetric": "True"},
            "per_channel_quantization": "False",
        },
        "params": {},
        "op_type": {},
        "supergroups": [],
        "model_input": {"is_input_quantized": "True"},
        "model_output": {},
    }
    path = tmp_path / "own.json"
    path.write_text(json.dumps(config))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert sim_of(model, images()).model[0].param_quantizers["weight"].shape == (4, 1, 1, 1)
    own = sim_of(model, images(), Quantization(config=str(path)))
    assert own.model[0].param_quantizers["weight"].shape == ()
    with pytest.raises(UserError, match=r"Quantization\.config: .*none\.json: no such file"):
        sim_of(model, images(), Quantization(config=str(tmp_path / "none.json")))
    path.write_text("{}")
    with pytest.raises(UserError, match=r"AIMET builds no QuantSim of Quantization\.config .*own\.json"):
        sim_of(model, images(), Quantization(config=str(path)))


def test_a_config_that_leaves_weights_without_quantizers_is_refused(tmp_path):
    config = {
        "defaults": {"ops": {"is_output_quantized": "True"}, "params": {"is_quantized": "False"}},
        "params": {},
        "op_type": {},
        "supergroups": [],
        "model_input": {},
        "model_output": {},
    }
    path = tmp_path / "own.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"QuantSim has no quantizers in 0 \(its weight\)"):
        sim_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images(), Quantization(config=str(path)))


@pytest.mark.parametrize("wrong", [False, True])
def test_the_w16a16_check_tells_a_right_own_quantizer_from_a_wrong_one(params_with, tmp_path, wrong):
    class Gate(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x)

    def define():
        from aimet_torch.nn import QuantizationMixin

        @QuantizationMixin.implements(Gate)
        class QuantizedGate(QuantizationMixin, Gate):
            def __quant_init__(self):
                super().__quant_init__()
                self.input_quantizers, self.output_quantizers = nn.ModuleList([None]), nn.ModuleList([None])

            def forward(self, x):
                if self.input_quantizers[0]:
                    x = self.input_quantizers[0](x)
                with self._patch_quantized_parameters():
                    x = super().forward(x * 1.05 if wrong else x)  # a wrong one: as if its scale were 5 % off
                return self.output_quantizers[0](x) if self.output_quantizers[0] else x

    torch.manual_seed(0)
    model, split = nn.Sequential(nn.Conv2d(3, 4, 3), Gate(), nn.Conv2d(4, 4, 1)).eval(), images()
    prepared, _ = prepare(model, sample_inputs(split), quantization=Quantization(define=define))
    reference = predict(prepared, split, 8, "")
    metric = Metric("error", lambda outputs, targets: (outputs - reference["output"]).abs().mean().item(), False)
    arguments = (prepared, metric, split, copy.deepcopy(prepared), load_params(params_with({})), tmp_path / "evidence")
    if not wrong:
        assert verify(*arguments).sqnr_db > 60
        return
    with pytest.raises(UserError, match=r"W16A16 disagrees with FP32: .* worst layers: .*\bGate, ") as error:
        verify(*arguments)
    assert "1 (Gate" in str(error.value)
    assert (tmp_path / "evidence/layers.csv").exists()


OWN = """
from torch import nn
from bitladder.tasks.task import Metric, Task

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, image, facts):
        return self.conv(image) + self.linear(facts)[:, :, None, None]

def task():
    return Task(Two, len, len, Metric("none", lambda outputs, targets: 0.0))
"""


def test_the_evidence_shows_a_network_of_several_inputs_whatever_they_are_called(params_with, tmp_path, monkeypatch):
    """Tensors are kept in the order of their names, and this network takes `image` before `facts`."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    changes = {"task": {"factory": "own.py:task", "files": {"code": "own.py"}}, "verify.min_sqnr_db": 200}
    params, split = load_params(params_with(changes)), of(image=torch.randn(8, 3, 8, 8), facts=torch.randn(8, 5))
    task = load_task(params.task.factory, params.task.args)
    prepared, _ = prepare(task.model().eval(), sample_inputs(split))
    with pytest.raises(UserError, match="W16A16 disagrees with FP32"):
        verify(prepared, task.metric, split, copy.deepcopy(prepared), params, tmp_path / "evidence")
    done = subprocess.run([sys.executable, "evidence/show.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "conv,Conv2d," in done.stdout

"""Weights with a scale for each block of input channels, from calibration to the emulated NPU."""

import json
from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

from bitladder.errors import RefusedError
from bitladder.export.checks import run_unoptimised
from bitladder.export.repairs import repair_file
from bitladder.htp.arithmetic.executor import Executor
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import sample_inputs
from bitladder.params import RULES, AdaroundParams, PtqParams, load_params
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.quantize.techniques.technique import NotApplicable, Setting, apply
from bitladder.socs import find_soc
from bitladder.targets.context import compile_model, run
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Split

SOC = find_soc("SM8650")
BITS = Precision(4, 16)
BLOCKS = ("point", "tokens", "last")


class Net(nn.Module):
    """Its exported layers are a Conv, a MatMul with an Add behind, and a Gemm; input channels are of many sizes."""

    def __init__(self):
        super().__init__()
        self.stem, self.point, self.odd = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 40, 1), nn.Conv2d(40, 32, 1)
        self.tokens, self.last = nn.Linear(32, 32), nn.Linear(32, 5)
        with torch.no_grad():
            for layer in (self.point, self.tokens, self.last):
                layer.weight.mul_(torch.randn(32).mul(0.5).exp().reshape(1, 32, *[1] * (layer.weight.ndim - 2)))

    def forward(self, image):
        x = torch.relu(self.odd(torch.relu(self.point(torch.relu(self.stem(image))))))
        return self.last(torch.relu(self.tokens(x.flatten(2).transpose(1, 2))).mean(1))


@pytest.fixture(scope="module")
def split():
    return Split({"image": torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))}, torch.zeros(64))


@pytest.fixture(scope="module")
def setting(split, tmp_path_factory):
    torch.manual_seed(0)
    params = PtqParams(techniques=["gptq"], samples=64, batch_size=32, adaround=AdaroundParams(iterations=1))
    sample, work = sample_inputs(split), tmp_path_factory.mktemp("work")
    model = prepare(Net().eval(), sample)[0]
    return Setting(model, lambda: model, sample, split, BITS, SOC.quantsim_config, params, 0, work, block=16)


@pytest.fixture(scope="module")
def rounded(setting):
    return apply("gptq", setting, None)


@pytest.fixture(scope="module")
def rounded_onnx(setting, tmp_path_factory):
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp("onnx") / "net.onnx")
    torch.onnx.export(Net().eval(), setting.sample, path, input_names=["image"], output_names=["output"], dynamo=False)
    model = prepare(OnnxModel(path)(), setting.sample)[0]
    return apply("gptq", replace(setting, model=model, unfolded=lambda: model), None)


def outputs(sim, split):
    return predict(sim.model, split, 32, "")["output"]


def distance(setting, technique, block):
    sim = apply(technique, replace(setting, block=block), None).sim
    expected = predict(setting.model, setting.fit, 32, "")
    return sqnr_db(expected, predict(sim.model, setting.fit, 32, ""))


def test_layers_with_whole_blocks_get_them_and_the_others_are_named(rounded):
    found = rounded.sim.block_weights()
    assert (found.size, found.layers, found.per_channel) == (16, BLOCKS, ("stem", "odd"))
    encodings = rounded.sim.encodings()
    for name in BLOCKS:
        weight = encodings[f"{name}.param_quantizers.weight"]
        assert (weight["enc_type"], weight["block_size"], weight["bw"]) == ("PER_BLOCK", 16, 4)
        assert len(weight["scale"]) == 2 * rounded.model.get_submodule(name).weight.shape[0]
    assert encodings["odd.param_quantizers.weight"]["enc_type"] == "PER_CHANNEL"


def test_smaller_blocks_are_nearer_to_fp32_and_gptq_is_nearer_still(setting):
    per_channel, blocks = (distance(setting, "min-max", block) for block in (None, 16))
    assert blocks > per_channel + 1
    assert distance(setting, "gptq", 16) > max(blocks + 10, distance(setting, "gptq", None) + 0.5)


def test_a_copy_and_what_is_loaded_give_the_same_outputs(rounded, setting, split, tmp_path):
    expected = outputs(rounded.sim, split)
    assert torch.equal(outputs(rounded.copy_sim(), split), expected)
    rounded.sim.save(tmp_path / "sim.safetensors")
    loaded = build_sim(setting.model, setting.sample, BITS, setting.config)
    loaded.load(tmp_path / "sim.safetensors")
    assert torch.equal(outputs(loaded, split), expected)
    assert loaded.encodings() == rounded.sim.encodings() and loaded.block_weights() == rounded.sim.block_weights()


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_export_and_npu_say_what_was_simulated(kind, rounded, rounded_onnx, setting, split, tmp_path):
    path, names, sim = (
        tmp_path / "model.onnx",
        (["image"], ["output"]),
        {"torch": rounded, "onnx": rounded_onnx}[kind].sim,
    )
    sim.export_qdq(setting.sample, names, path)
    sim.export_encodings(setting.sample, names, tmp_path / "aimet")
    rules = repair_file(path, SOC, tuple(RULES), tmp_path / "aimet")
    assert [one.op for one in rules if one.rule == "block-bias"] == ["Conv", "MatMul", "Gemm"]
    nodes = onnx.load(path).graph.node
    sizes = [one.i for node in nodes for one in node.attribute if one.name == "block_size"]
    assert sizes == [16, 16, 16]
    encodings = json.loads((tmp_path / "aimet/model.encodings").read_text())["param_encodings"]
    assert sum(one["enc_type"] == "PER_BLOCK" for one in encodings) == 3

    few, simulated = split.first(2), predict(sim.model, split.first(2), 2, "")
    assert sqnr_db(simulated, run_unoptimised(path, few)) > 60
    target = load_params().target
    compiled = compile_model(path, tmp_path / "npu", SOC, False, 60, tmp_path / "work")
    assert sqnr_db(simulated, run(compiled, SOC, False, few, target, tmp_path / "work")) > 55
    # no model of the NPU's integers is made of blocks
    assert {"Conv /point/Conv", "MatMul /tokens/MatMul", "Gemm /last/Gemm"} <= set(Executor(onnx.load(path)).float_ops)


def test_a_layer_of_more_bits_keeps_its_blocks(setting):
    sim = build_sim(setting.model, setting.sample, BITS, setting.config)
    sim.set_blocks(16)
    sim.set_layers({"tokens": Precision(8, 16)})
    sim.calibrate(setting.fit, 32)
    weight = sim.encodings()["tokens.param_quantizers.weight"]
    assert (weight["bw"], weight["block_size"]) == (8, 16)


def test_a_norm_is_no_layer_that_blocks_are_missing_in():
    sample = (torch.randn(1, 32),)
    network, _ = prepare(nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32)).eval(), sample)
    sim = build_sim(network, sample, BITS, SOC.quantsim_config)
    sim.set_blocks(16)
    assert len(sim.block_weights().layers) == 1 and sim.block_weights().per_channel == ()


def test_adaround_passes_over_a_rung_with_blocks(setting):
    with pytest.raises(NotApplicable, match="per channel only"):
        apply("adaround", setting, None)


def test_a_block_that_divides_no_layer_is_refused(setting):
    sim = build_sim(setting.model, setting.sample, BITS, setting.config)
    with pytest.raises(RefusedError, match=r"ladder: weights_block: .* multiple of 64 input channels, at least 128"):
        sim.set_blocks(64)


def test_a_network_that_came_as_onnx_has_the_same_layers_and_grid(rounded_onnx, setting, split, tmp_path):
    found = rounded_onnx.sim.block_weights()
    blocks = ("/point/Conv", "/tokens/MatMul", "/last/Gemm")
    assert (found.size, found.layers, found.per_channel) == (16, blocks, ("/stem/Conv", "/odd/Conv"))
    expected = outputs(rounded_onnx.sim, split)
    reference = predict(rounded_onnx.model, split, 32, "")
    assert sqnr_db(reference, {"output": expected}) > 40  # as of torch
    assert torch.equal(outputs(rounded_onnx.copy_sim(), split), expected)
    rounded_onnx.sim.save(tmp_path / "sim.safetensors")
    loaded = build_sim(rounded_onnx.model, setting.sample, BITS, setting.config)
    loaded.load(tmp_path / "sim.safetensors")
    assert torch.equal(outputs(loaded, split), expected)
    assert loaded.block_weights() == found
    with pytest.raises(RefusedError, match=r"ladder: weights_block: .* multiple of 64 input channels"):
        build_sim(rounded_onnx.model, setting.sample, BITS, setting.config).set_blocks(64)

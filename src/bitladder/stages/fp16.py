"""fp16: the network in FP16, as ONNX and with its outputs."""

from bitladder.export.checks import graph_names
from bitladder.export.fp16 import HalfPrecision, export_fp16
from bitladder.export.repairs import repair_file
from bitladder.network.evaluate import compare, predict
from bitladder.network.model import build_model, load_split, sample_inputs
from bitladder.params import Params
from bitladder.paths import FP32_OUTPUTS, TRAINED, RungFiles, samples
from bitladder.precision import FLOAT
from bitladder.records import write_record
from bitladder.running.determinism import seed_all
from bitladder.running.files import load_tensors, save_tensors
from bitladder.tasks.task import load_task

__all__ = ["main"]


def main(params: Params) -> None:
    """Write build/export/fp16 and metrics/eval/fp16.json."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(samples("evaluation"))
    files = RungFiles("fp16")
    model = HalfPrecision(build_model(task, TRAINED))
    outputs = predict(model, split, params.evaluate.batch_size, "fp16")
    result = compare(task.metric, outputs, load_tensors(FP32_OUTPUTS), split.targets)
    export_fp16(model, sample_inputs(split), graph_names(list(split.inputs), list(outputs)), files.model)
    repairs = repair_file(files.model, params.soc, params.export.rules)
    save_tensors(files.outputs, outputs)
    record = result.record(task.metric, "fp16", FLOAT["fp16"], FLOAT["fp16"])
    write_record(files.off_target, record.model_copy(update={"repairs": repairs}))

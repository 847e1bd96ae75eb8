"""baseline: the outputs of FP32, and the network made fit for AIMET."""

from bitladder.network.evaluate import Comparison, predict
from bitladder.network.model import build_model, load_split, sample_inputs
from bitladder.network.per_sample import scores_of
from bitladder.params import Params
from bitladder.paths import FP32_OUTPUTS, FP32_SCORES, PREPARED, TRAINED, evaluated, samples
from bitladder.precision import FLOAT
from bitladder.quantize.prepare.prepare import check_equal, prepare, save_prepared
from bitladder.records import write_record
from bitladder.running.determinism import seed_all
from bitladder.running.files import save_tensors
from bitladder.statistics.scores import FP32, save_scores
from bitladder.tasks.task import load_task

__all__ = ["main"]


def main(params: Params) -> None:
    """Write build/baseline and metrics/eval/fp32.json."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(samples("evaluation"))
    model = build_model(task, TRAINED)
    outputs = predict(model, split, params.evaluate.batch_size, "fp32")
    result = Comparison(task.metric(outputs, split.targets), 0.0, None, None, len(split))  # the reference itself
    prepared, preparation = prepare(model, sample_inputs(split), params.prepare.exclude, task.quantization)
    check_equal(predict(prepared, split, params.evaluate.batch_size, "prepared"), outputs)
    save_prepared(PREPARED, prepared, preparation)
    save_tensors(FP32_OUTPUTS, outputs)
    save_scores(FP32_SCORES, {FP32: scores_of(task.metric, outputs, split.targets)})
    record = result.record(task.metric, str(preparation), FLOAT["fp32"], FLOAT["fp32"])
    write_record(evaluated("fp32"), record)

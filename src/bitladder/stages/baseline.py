"""baseline: FP32 scored, and the network made fit for AIMET."""

from bitladder.network.model import build_model, sample_inputs
from bitladder.network.scoring import noise_db, score, scoring, store
from bitladder.params import Params
from bitladder.paths import PREPARED, TRAINED, evaluated
from bitladder.precision import FLOAT
from bitladder.quantize.prepare.prepare import check_equal, prepare, save_prepared
from bitladder.records import write_record
from bitladder.running.determinism import seed_all
from bitladder.tasks.samples import held
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["main"]

CHECKED = 32  # samples on which the prepared network must give the same outputs


def main(params: Params) -> None:
    """Write build/baseline and metrics/eval/fp32.json."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_samples(task, params, "evaluation")
    model = build_model(task, TRAINED)
    with scoring("baseline", params) as work:
        result = score(model, split, task.metric, params.evaluate.batch_size, "fp32", work=work).comparison
        few, size = held(split.first(CHECKED)), params.evaluate.batch_size
        expected = store(model, few, size, work / "fp32")  # to prepare a network changes it
        prepared, preparation = prepare(model, sample_inputs(split), params.prepare.exclude, task.quantization)
        check_equal(noise_db(prepared, few, expected, size))
    save_prepared(PREPARED, prepared, preparation)
    record = result.record(task.metric, str(preparation), FLOAT["fp32"], FLOAT["fp32"])
    write_record(evaluated("fp32"), record)

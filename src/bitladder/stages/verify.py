"""verify: W16A16 must agree with FP32 before any integer format is trusted."""

from bitladder.network.model import build_model, sample_inputs
from bitladder.params import Params
from bitladder.paths import EVIDENCE, PREPARED, TRAINED, evaluated
from bitladder.quantize.prepare.prepare import load_prepared
from bitladder.quantize.verify import verify
from bitladder.records import write_record
from bitladder.running.determinism import seed_all
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["main"]


def main(params: Params) -> None:
    """Write metrics/eval/w16a16.json, or stop the run."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_samples(task, params, "evaluation")
    model = load_prepared(task, sample_inputs(split), PREPARED, params.prepare.exclude)
    result = verify(model, task.metric, split, build_model(task, TRAINED), params, EVIDENCE)
    write_record(evaluated("w16a16"), result.record(task.metric, "w16a16 check", 16, 16))

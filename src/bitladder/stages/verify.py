"""verify: W16A16 must agree with FP32 before any integer format is trusted."""

from bitladder.network.model import load_split, sample_inputs
from bitladder.params import Params
from bitladder.paths import EVIDENCE, FP32_OUTPUTS, PREPARED, evaluated, samples
from bitladder.quantize.prepare.prepare import load_prepared
from bitladder.quantize.verify import verify
from bitladder.records import write_record
from bitladder.running.determinism import seed_all
from bitladder.running.files import load_tensors
from bitladder.tasks.task import load_task

__all__ = ["main"]


def main(params: Params) -> None:
    """Write metrics/eval/w16a16.json, or stop the run."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(samples("evaluation"))
    model = load_prepared(task, sample_inputs(split), PREPARED, params.prepare.exclude)
    result = verify(model, task.metric, split, load_tensors(FP32_OUTPUTS), params, EVIDENCE)
    write_record(evaluated("w16a16"), result.record(task.metric, "w16a16 check", 16, 16))

"""verify: W16A16 must agree with FP32 before any integer format is trusted.

Where it does not, every rung of the ladder is refused with the reason, and FP16 is what is left.
"""

import sys

from bitladder.errors import RefusedError
from bitladder.network.model import build_model, sample_inputs
from bitladder.network.scoring import scoring
from bitladder.params import Params
from bitladder.paths import EVIDENCE, PREPARED, TRAINED, evaluated
from bitladder.quantize.prepare.prepare import load_prepared
from bitladder.quantize.verify import verify
from bitladder.records import Evaluation, write_record
from bitladder.running.determinism import seed_all
from bitladder.running.explain import refusing
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["main"]

TECHNIQUE = "w16a16 check"


def main(params: Params) -> None:
    """Write metrics/eval/w16a16.json."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_samples(task, params, "evaluation")
    try:
        with refusing("verify"):
            model = load_prepared(task, sample_inputs(split), PREPARED, params.prepare.exclude)
            with scoring("verify", params, PREPARED) as work:
                result = verify(model, task.metric, split, build_model(task, TRAINED), params, EVIDENCE, work)
        record = result.record(task.metric, TECHNIQUE, 16, 16)
    except RefusedError as refusal:
        print(f"verify: {refusal}; so every rung of the ladder is refused", file=sys.stderr)  # noqa: T201
        record = Evaluation(
            metric=task.metric.name,
            higher_is_better=task.metric.higher_is_better,
            samples=0,
            technique=TECHNIQUE,
            weights_bits=16,
            activations_bits=16,
            refused=str(refusal),
        )
    write_record(evaluated("w16a16"), record)

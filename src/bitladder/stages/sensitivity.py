"""sensitivity: which layers cost the metric, weights and activations apart."""

from dataclasses import asdict

from bitladder.errors import RefusedError
from bitladder.network.model import sample_inputs
from bitladder.params import Params
from bitladder.paths import PREPARED, SENSITIVITY, SENSITIVITY_ROWS
from bitladder.quantize.prepare.prepare import load_prepared
from bitladder.quantize.sensitivity import measure, summarise
from bitladder.records import SensitivitySummary, write_record
from bitladder.running.determinism import seed_all
from bitladder.running.explain import refusing
from bitladder.running.files import write_csv
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["main"]

COLUMNS = ("layer", "kind", "what", "bits", "value", "drop", "sqnr_db")


def main(params: Params) -> None:
    """Write metrics/sensitivity.json and .csv."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    # Not the evaluation split: what is chosen by these figures must not have been seen by the ones that are reported
    calibration = load_samples(task, params, "calibration")
    sample = sample_inputs(calibration)
    try:
        with refusing("sensitivity"):
            rows = measure(
                load_prepared(task, sample, PREPARED, params.prepare.exclude),
                sample,
                calibration,
                params.soc.quantsim_config,
                params.sensitivity,
                params.evaluate.batch_size,
                task.metric,
            )
        summary = summarise(rows)
    except RefusedError as refusal:  # it is advice: the rungs say for themselves what is wrong
        rows, summary = [], SensitivitySummary(sensitive_to=None, summary=f"not measured: {refusal}", worst=())
    write_csv(SENSITIVITY_ROWS, COLUMNS, map(asdict, rows))
    write_record(SENSITIVITY, summary)
    print(summary.summary)  # noqa: T201

"""sensitivity: which layers cost the metric, weights and activations apart."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bitladder.errors import RefusedError
from bitladder.params import Params
from bitladder.paths import SENSITIVITY, SENSITIVITY_ROWS
from bitladder.quantize.sensitivity import Sensitivity, load_layers, summarise
from bitladder.quantize.sensitivity_cluster import measure_over
from bitladder.records import SensitivitySummary, write_record
from bitladder.running.cluster_connect import connected
from bitladder.running.explain import refusing
from bitladder.running.files import write_csv

__all__ = ["main"]

COLUMNS = ("layer", "kind", "what", "bits", "value", "drop", "sqnr_db")


def main(params: Params) -> None:
    """Write metrics/sensitivity.json and .csv."""
    try:
        with refusing("sensitivity"):
            rows = _measure(params)
        summary = summarise(rows)
    except RefusedError as refusal:  # it is advice: the rungs say for themselves what is wrong
        rows, summary = [], SensitivitySummary(sensitive_to=None, summary=f"not measured: {refusal}", worst=())
    write_csv(SENSITIVITY_ROWS, COLUMNS, map(asdict, rows))
    write_record(SENSITIVITY, summary)
    print(summary.summary)  # noqa: T201


def _measure(params: Params) -> list[Sensitivity]:
    if params.compute.cluster:
        with connected(params.compute) as cluster:
            return measure_over(cluster, params)
    with TemporaryDirectory() as folder:
        return load_layers(params, Path(folder)).measure_all(params.sensitivity)

"""Gates between rungs, and what the stages of a skipped rung leave behind. Starts without torch.

A gate says only whether to descend below a rung. DVC hashes it, so an upstream edit that does not change the verdict
reruns nothing below. A skipped rung leaves empty files where tensors and graphs would be: the stages after it see by
them that there is nothing to do.
"""

from pathlib import Path

from bitladder.params import Params
from bitladder.paths import RungFiles, evaluated
from bitladder.records import Evaluation, ExportCheck, Gate, read_record, write_record
from bitladder.running.files import write_csv, write_json, write_text, write_yaml

__all__ = [
    "LAYER_COLUMNS",
    "QAT_COLUMNS",
    "SKIPPED",
    "descends",
    "is_skipped",
    "skip_export",
    "skip_ptq",
    "skip_qat",
    "write_gate",
]

SKIPPED = "goals.policy is step-down, and a rung above meets every goal"

LAYER_COLUMNS = (
    "layer", "kind", "sqnr_db", "weights_bits", "weight_min", "weight_max", "outputs_bits", "output_min", "output_max",
)  # fmt: skip
"""Columns of metrics/layers/*.csv, after PTQ, and of metrics/export/*.csv, of what ships."""

QAT_COLUMNS = ("epoch", "train_loss", "value", "loss", "range_drift_mean", "range_drift_max")
"""Columns of metrics/qat/*.csv: a row an epoch, the first PTQ's state."""


def write_gate(rung: str, descend: bool) -> None:
    """Write gates/<rung>.json."""
    write_record(RungFiles(rung).gate, Gate(descend=descend))


def descends(rung: str) -> bool:
    """Whether the rungs after this one are to be tried."""
    return read_record(Gate, RungFiles(rung).gate).descend


def is_skipped(path: Path) -> bool:
    """Whether an output stands for a skipped rung."""
    return path.is_file() and not path.stat().st_size


def skip_ptq(params: Params, rung: str) -> None:
    """Leave ptq@rung's outputs for a skipped rung."""
    files = RungFiles(rung)
    _leave_empty(files.ptq_sim, files.ptq_outputs, files.ptq_scores)
    write_json(files.ptq_encodings, {})
    write_csv(files.ptq_layers, LAYER_COLUMNS, ())
    write_yaml(files.raised, {})
    write_record(files.ptq_metrics, _skipped(params, rung))


def skip_qat(rung: str) -> None:
    """Leave qat@rung's outputs for a skipped rung."""
    files = RungFiles(rung)
    _leave_empty(files.sim, files.outputs, files.scores)
    write_csv(files.qat_history, QAT_COLUMNS, ())
    record = read_record(Evaluation, files.ptq_metrics)
    write_record(files.off_target, record.model_copy(update={"qat": "not run: the rung is skipped"}))


def skip_export(rung: str) -> None:
    """Leave export@rung's outputs for a skipped rung."""
    files = RungFiles(rung)
    _leave_empty(files.model, files.aimet / "skipped")
    write_json(files.encodings, {})
    write_csv(files.layers, LAYER_COLUMNS, ())
    write_record(files.export_metrics, ExportCheck(samples=0, sqnr_db=None, agreement=None, skipped=SKIPPED))


def _leave_empty(*paths: Path) -> None:
    for path in paths:
        write_text(path, "")


def _skipped(params: Params, rung: str) -> Evaluation:
    """Give the record of a skipped rung: nothing measured, and why."""
    check, bits = read_record(Evaluation, evaluated("w16a16")), params.ladder[rung].precision
    return Evaluation(
        metric=check.metric,
        higher_is_better=check.higher_is_better,
        samples=0,
        technique=None,
        weights_bits=bits.weights,
        activations_bits=bits.activations,
        skipped=SKIPPED,
        tries=(),
    )

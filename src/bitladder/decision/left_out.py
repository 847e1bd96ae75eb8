"""Rungs that are skipped or refused: how the stages learn of it, and what they leave behind. Starts without torch.

Where tensors and graphs would be, such a rung leaves the reason as text. The stages after it find it there, have
nothing to do, and pass it on to the decision.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Literal

from bitladder.decision.gates import descends
from bitladder.errors import RefusedError
from bitladder.params import Params
from bitladder.paths import RungFiles, evaluated
from bitladder.precision import FLOAT
from bitladder.records import Evaluation, ExportCheck, read_record, write_record
from bitladder.running.explain import refusing
from bitladder.running.files import remove_path, write_csv, write_json, write_text, write_yaml

__all__ = [
    "LAYER_COLUMNS",
    "QAT_COLUMNS",
    "SKIPPED",
    "LeftOut",
    "leave_export",
    "leave_fp16",
    "leave_ptq",
    "leave_qat",
    "of_a_rung",
    "why_left_out",
    "why_no_ptq",
]

SKIPPED = "goals.policy is step-down, and a rung above meets every goal"

LAYER_COLUMNS = (
    "layer", "kind", "sqnr_db", "weights_bits", "weight_min", "weight_max", "outputs_bits", "output_min", "output_max",
)  # fmt: skip
"""Columns of metrics/layers/*.csv, after PTQ, and of metrics/export/*.csv, of what ships."""

QAT_COLUMNS = ("epoch", "train_loss", "value", "loss", "range_drift_mean", "range_drift_max")
"""Columns of metrics/qat/*.csv: a row an epoch, the first PTQ's state."""

LONGEST = 10_000  # bytes of a file that holds a reason


@dataclass(frozen=True)
class LeftOut:
    """Why there is nothing of a rung: skipped by goals.policy, or refused as the network does not allow it."""

    kind: Literal["skipped", "refused"]
    reason: str

    def __str__(self) -> str:
        """Give what stands in files and records."""
        return f"{self.kind}: {self.reason}"


Work = Callable[[Params, str], None]
Leave = Callable[[Params, str, LeftOut], None]


def of_a_rung(why: Callable[[Params, str], LeftOut | None], leave: Leave) -> Callable[[Work], Work]:
    """Make a stage's work leave the reason, and the run go on, where a rung is skipped or refused.

    Args:
        why: says why there is nothing to do, or None; it is asked before torch is loaded.
        leave: writes the stage's outputs of such a rung.

    """

    def decorate(work: Work) -> Work:
        @wraps(work)
        def main(params: Params, rung: str) -> None:
            stage = f"{work.__module__.rpartition('.')[2]}@{rung}"
            found = why(params, rung)
            try:
                if found is None:
                    with refusing(stage):
                        work(params, rung)
            except RefusedError as refusal:
                if "WORLD_SIZE" in os.environ:
                    raise  # one of several processes that train: the others wait for it
                found = LeftOut("refused", str(refusal))
                print(f"{stage}: {found}", file=sys.stderr)  # noqa: T201
            if found:
                leave(params, rung, found)

        return main

    return decorate


def why_no_ptq(params: Params, rung: str) -> LeftOut | None:
    """Say why a rung is not quantized: the ladder was left above it, or the W16A16 check has failed."""
    if not descends(params.ladder[rung].after):
        return LeftOut("skipped", SKIPPED)
    check = read_record(Evaluation, evaluated("w16a16"))
    return LeftOut("refused", check.refused) if check.refused else None


def why_left_out(path: Path) -> LeftOut | None:
    """Read the reason that an earlier stage has left in the place of an output; None where there is an output."""
    if not path.is_file() or path.stat().st_size > LONGEST:
        return None
    kind, _, reason = path.read_bytes().partition(b": ")
    for known in ("skipped", "refused"):
        if kind == known.encode():
            return LeftOut(known, reason.decode().strip())
    return None


def leave_ptq(params: Params, rung: str, why: LeftOut) -> None:
    """Leave ptq@rung's outputs."""
    files = RungFiles(rung)
    _leave(why, files.ptq_sim, files.ptq_scores)
    write_json(files.ptq_encodings, {})
    write_csv(files.ptq_layers, LAYER_COLUMNS, ())
    write_yaml(files.raised, {})
    bits = params.ladder[rung].precision
    write_record(files.ptq_metrics, _evaluation(why, bits.weights, bits.activations, tries=()))


def leave_qat(params: Params, rung: str, why: LeftOut) -> None:
    """Leave qat@rung's outputs."""
    files, bits = RungFiles(rung), params.ladder[rung].precision
    _leave(why, files.sim, files.scores)
    write_csv(files.qat_history, QAT_COLUMNS, ())
    says = {"tries": read_record(Evaluation, files.ptq_metrics).tries, "qat": f"not run: the rung is {why.kind}"}
    write_record(files.off_target, _evaluation(why, bits.weights, bits.activations, **says))


def leave_export(params: Params, rung: str, why: LeftOut) -> None:
    """Leave export@rung's outputs."""
    files = RungFiles(rung)
    for folder in (files.aimet, files.outputs):
        remove_path(folder)
    _leave(why, files.model, files.reference, *(folder / f"{why.kind}.txt" for folder in (files.aimet, files.outputs)))
    write_json(files.encodings, {})
    write_csv(files.layers, LAYER_COLUMNS, ())
    nothing = {"samples": 0, "sqnr_db": None, "agreement": None}
    write_record(files.export_metrics, ExportCheck.model_validate({**nothing, why.kind: why.reason}))


def leave_fp16(params: Params, rung: str, why: LeftOut) -> None:
    """Leave the outputs of the stage fp16."""
    files = RungFiles(rung)
    remove_path(files.outputs)
    _leave(why, files.model, files.scores, files.reference, files.outputs / f"{why.kind}.txt")
    write_record(files.off_target, _evaluation(why, FLOAT[rung], FLOAT[rung]))


def _leave(why: LeftOut, *paths: Path) -> None:
    for path in paths:
        write_text(path, f"{why}\n")


def _evaluation(why: LeftOut, weights_bits: int, activations_bits: int, **more: object) -> Evaluation:
    """Give the record of a rung of which nothing was measured, and why."""
    # of FP32's record the metric's name alone, so that no stage depends on its figures
    fp32 = read_record(Evaluation, evaluated("fp32"))
    return Evaluation.model_validate(
        {
            "metric": fp32.metric,
            "higher_is_better": fp32.higher_is_better,
            "samples": 0,
            "technique": None,
            "weights_bits": weights_bits,
            "activations_bits": activations_bits,
            why.kind: why.reason,
            **more,
        }
    )

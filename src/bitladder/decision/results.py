"""The metrics files of this commit's rungs, read; and what rungs left that are in params.yaml no longer, removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitladder.decision.comparisons import OFF_TARGET
from bitladder.decision.goals import RungScores
from bitladder.decision.left_out import why_left_out
from bitladder.errors import UserError
from bitladder.params import Params
from bitladder.paths import RungFiles, evaluated
from bitladder.records import Evaluation, ExportCheck, Measurement, TargetRecord, read_record
from bitladder.running.files import locked_stages, remove_path
from bitladder.statistics.scores import FP32, NETWORK, Scores, read_scores

__all__ = ["OF_RUNGS", "Results", "flat", "read_results", "read_rung_scores", "read_target", "remove_dropped"]

OF_RUNGS = ("ptq", "qat", "export", "profile", "judge")
"""The stages that dvc.yaml has for each rung."""


@dataclass(frozen=True)
class Results:
    """Records by rung, from high to low: `evals` has fp32, fp16 and the rungs, `targets` fp16 and the rungs.

    `exports` has the rungs.

    `targets` is of target.soc; `socs` of the further SoCs of target.socs, by rung and then by SoC.
    """

    evals: Mapping[str, Evaluation]
    targets: Mapping[str, Measurement]
    exports: Mapping[str, ExportCheck]
    socs: Mapping[str, Mapping[str, Measurement]]


def read_rung_scores(params: Params, rung: str) -> RungScores:
    """Read a rung's scores in every place; none of a rung that was left out. Raise UserError where one is missing."""
    files = RungFiles(rung)
    if why_left_out(files.scores) or why_left_out(files.reference):
        return {}
    off, reference = read_scores(files.scores), read_scores(files.reference)
    found: dict[str, Mapping[str, Scores]] = {OFF_TARGET: off}
    for soc in (params.soc, *params.other_socs):
        if (path := files.target_scores(soc.name)).is_file():  # or the SoC does not take the rung
            own = read_scores(path)
            # all samples, where a model of the NPU ran them
            on_all = own[NETWORK].samples == off[FP32].samples
            found[soc.name] = {FP32: (off if on_all else reference)[FP32], **own}
    return found


def read_results(params: Params) -> Results:
    """Read the metrics of FP32, FP16 and every rung in params.yaml. Raise UserError where one is missing."""
    rungs = ("fp16", *params.rungs())
    evals = {name: read_record(Evaluation, evaluated(name)) for name in ("fp32", *rungs)}
    on_target = {name: read_target(params, name) for name in rungs}
    return Results(
        evals,
        {name: first for name, (first, _) in on_target.items()},
        {name: read_record(ExportCheck, RungFiles(name).export_metrics) for name in params.rungs()},
        {name: socs for name, (_, socs) in on_target.items()},
    )


def read_target(params: Params, rung: str) -> tuple[Measurement, dict[str, Measurement]]:
    """Read a rung's records on target.soc, and on the further SoCs. Raise UserError where one is missing."""
    path = RungFiles(rung).on_target
    record = read_record(TargetRecord, path)
    for soc in params.other_socs:
        if soc.name not in record.socs:
            raise UserError(f"{path}: has nothing of {soc.name}; run `dvc repro`")
    return record, {soc.name: record.socs[soc.name] for soc in params.other_socs}


def remove_dropped(params: Params) -> None:
    """Remove the outputs of rungs that dvc.lock knows and params.yaml no longer has.

    DVC leaves them, and stages depend on whole folders: this clone's would not be those of a fresh one.
    """
    rungs = {"fp16", *params.rungs()}
    for name, stage in locked_stages().items():
        rung = name.partition("@")[2]
        if name.partition("@")[0] in OF_RUNGS and rung not in rungs:
            for out in stage.get("outs", ()):
                # build/export/<rung>/model.onnx: the whole of its folder, in which DVC's .gitignore is left
                path = Path(*Path(out["path"]).parts[:3])
                remove_path(path)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested records, or params, as one level, their keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found

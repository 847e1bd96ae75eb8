"""profile@R: the outputs of the target, and what they cost there, on every SoC. `fp16` is profiled as the rungs are.

A further SoC of target.socs that does not take the rung is refused alone, with the reason.
"""

import shutil

from bitladder.decision.gates import SKIPPED, is_skipped
from bitladder.errors import RefusedError
from bitladder.params import Params
from bitladder.paths import RungFiles
from bitladder.records import Measurement, TargetRecord, write_record
from bitladder.running.files import write_text
from bitladder.socs import Soc
from bitladder.statistics.scores import Scores, save_scores
from bitladder.targets.record import not_profiled, precision_of

__all__ = ["main"]

REFUSED = "not-compiled.txt"
"""In the folder of a SoC for which nothing was compiled: why."""


def main(params: Params, rung: str) -> None:
    """Write build/target/R, a folder a SoC, build/scores/R/on-target and metrics/target/R.json."""
    files = RungFiles(rung)
    records: dict[str, Measurement] = {}
    scores: dict[str, Scores] = {}
    for soc in (params.soc, *params.other_socs):
        records[soc.name], found = _measure(params, files, soc)
        scores |= {f"{soc.name}/{name}": one for name, one in found.items()}
    first = records.pop(params.soc.name)
    save_scores(files.target_scores, scores)
    write_record(files.on_target, TargetRecord(**dict(first), socs=records))


def _measure(params: Params, files: RungFiles, soc: Soc) -> tuple[Measurement, dict[str, Scores]]:
    precision, folder = precision_of(params, files.rung), files.compiled / soc.name
    reason = f"skipped: {SKIPPED}" if is_skipped(files.model) else f"{soc.name} does not take {precision}"
    if not is_skipped(files.model) and precision in soc.takes:
        from bitladder.targets.profile import profile_rung

        try:
            return profile_rung(params, files.rung, soc)
        except RefusedError as refusal:
            if soc == params.soc:
                raise
            reason = str(refusal)
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / REFUSED, f"{reason}\n")
    return not_profiled(params.target.backend, soc, reason), {}

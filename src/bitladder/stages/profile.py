"""profile@R: the outputs of the target, and what they cost there, on every SoC. `fp16` is profiled as the rungs are.

A SoC that does not take the rung is told of with the reason, and the run goes on.
"""

import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future

from bitladder.decision.left_out import LeftOut, why_left_out
from bitladder.errors import RefusedError
from bitladder.params import Params
from bitladder.paths import RungFiles
from bitladder.records import Measurement, TargetRecord, write_record
from bitladder.running.explain import refusing
from bitladder.running.files import write_text
from bitladder.socs import Soc
from bitladder.targets.record import lacking, not_profiled

__all__ = ["main"]

REFUSED = "not-compiled.txt"
"""In the folder of a SoC for which nothing was compiled: why."""


def main(params: Params, rung: str) -> None:
    """Write build/target/R, a folder a SoC, and metrics/target/R.json."""
    files, all_socs = RungFiles(rung), (params.soc, *params.other_socs)
    reasons = {soc.name: _why_not(params, files, soc) for soc in all_socs}
    wanted = [soc for soc in all_socs if not reasons[soc.name]]
    measured: Mapping[str, Future] = {}
    if params.compute.cluster and len(wanted) > 1 and params.target.backend == "hexagon-emulator":
        from bitladder.targets.profile_cluster import profile_over

        measured = profile_over(params, rung, wanted)
    first, *others = (_measure(params, files, soc, reasons[soc.name], measured.get(soc.name)) for soc in all_socs)
    socs = {soc.name: record for soc, record in zip(params.other_socs, others, strict=True)}
    write_record(files.on_target, TargetRecord(**dict(first), socs=socs))


def _why_not(params: Params, files: RungFiles, soc: Soc) -> str:
    reason, lacks = str(why_left_out(files.model) or ""), lacking(params, files.rung, soc)
    return reason or (f"{soc.name} does not take {lacks}" if lacks else "")


def _measure(params: Params, files: RungFiles, soc: Soc, reason: str, measured: Future | None) -> Measurement:
    folder = files.compiled / soc.name
    if not reason:
        from bitladder.targets.profile import profile_rung

        try:
            with refusing(f"profile@{files.rung}"):
                return measured.result() if measured else profile_rung(params, files.rung, soc)
        except RefusedError as refusal:
            reason = str(LeftOut("refused", str(refusal)))
            print(f"profile@{files.rung}: {reason}", file=sys.stderr)  # noqa: T201
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / REFUSED, f"{reason}\n")
    return not_profiled(params.target.backend, soc, reason)

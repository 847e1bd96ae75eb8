"""judge@R: the goals held against a rung, and whether to descend below it. `fp16` is judged as the rungs are."""

from bitladder.decision.gates import write_gate
from bitladder.decision.goals import judge, summary
from bitladder.decision.results import read_rung_scores, read_target
from bitladder.params import Params
from bitladder.paths import RungFiles, evaluated
from bitladder.records import Evaluation, read_record, write_record

__all__ = ["main"]


def main(params: Params, rung: str) -> None:
    """Write gates/R.json and metrics/rungs/R.json."""
    files = RungFiles(rung)
    on_target, socs = read_target(params, rung)
    off_target, fp32 = (read_record(Evaluation, path) for path in (files.off_target, evaluated("fp32")))
    verdict = judge(params, rung, off_target, on_target, fp32, socs, read_rung_scores(params, rung))
    write_gate(rung, verdict.descends(params.goals.policy))
    write_record(files.summary, summary(verdict))

"""judge@R: the goals held against a rung, and whether to descend below it. `fp16` is judged as the rungs are."""

from bitladder.decision.gates import write_gate
from bitladder.decision.goals import judge, summary
from bitladder.decision.results import read_target
from bitladder.params import Params
from bitladder.paths import RungFiles, evaluated
from bitladder.running.files import read_json, write_json

__all__ = ["main"]


def main(params: Params, rung: str) -> None:
    """Write gates/R.json and metrics/rungs/R.json."""
    files = RungFiles(rung)
    on_target, socs = read_target(params, rung)
    verdict = judge(params, rung, read_json(files.off_target), on_target, read_json(evaluated("fp32")), socs)
    write_gate(rung, verdict.descends(params.goals.policy))
    write_json(files.summary, summary(verdict))

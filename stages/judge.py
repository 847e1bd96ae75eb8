"""judge@R: what the goals say of a rung, and whether to descend below it. `fp16` is judged as the rungs are."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params, rung: str) -> None:
    from bitladder.decision.gates import write_gate
    from bitladder.decision.goals import judge, summary
    from bitladder.decision.results import read_socs
    from bitladder.running.files import read_json, write_json

    off, on = (read_json(Path(f"metrics/{kind}/{rung}.json")) for kind in ("eval", "target"))
    fp32 = read_json(Path("metrics/eval/fp32.json"))
    verdict = judge(params, rung, off, on, fp32, read_socs(params, rung))
    write_gate(rung, verdict.descends(params.goals.policy))
    write_json(Path(f"metrics/rungs/{rung}.json"), summary(verdict))


if __name__ == "__main__":
    run(main)

"""profile@R: what the target answers, and what it costs there. `fp16` is profiled as the rungs are."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params, rung: str) -> None:
    from bitladder.decision.gates import SKIPPED, is_skipped
    from bitladder.running.files import write_json
    from bitladder.targets.record import not_profiled, precision_of

    precision, soc = precision_of(params, rung), params.soc
    metrics = Path(f"metrics/target/{rung}.json")
    folder = Path("build/target") / rung
    refused = precision not in soc.takes
    if refused or is_skipped(Path(f"build/export/{rung}/model.onnx")):
        folder.mkdir(parents=True, exist_ok=True)
        reason = f"{params.target.soc} does not take {precision}" if refused else f"skipped: {SKIPPED}"
        write_json(metrics, not_profiled(params.target.backend, soc, reason))
        return
    from bitladder.targets.profile import profile_rung

    write_json(metrics, profile_rung(params, rung, soc, folder, Path("build/notes") / rung))


if __name__ == "__main__":
    run(main, torch=True)

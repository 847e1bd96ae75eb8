"""profile@R: what the target answers, and what it costs there. `fp16` is profiled as the rungs are."""

from pathlib import Path

from bitladder.params import Params
from bitladder.stage import run


def main(params: Params, rung: str) -> None:
    from bitladder.files import load_tensors, write_json
    from bitladder.gates import SKIPPED, is_skipped
    from bitladder.targets.record import not_profiled

    precision = "FP16" if rung == "fp16" else str(params.ladder[rung].precision)
    metrics = Path(f"metrics/target/{rung}.json")
    folder = Path("build/target") / rung
    model = Path(f"build/export/{rung}/model.onnx")
    refused = precision not in params.soc.takes
    if refused or is_skipped(model):
        folder.mkdir(parents=True, exist_ok=True)
        reason = f"{params.target.soc} does not take {precision}" if refused else f"skipped: {SKIPPED}"
        write_json(metrics, not_profiled(params.target, reason))
        return
    from bitladder.model import load_split
    from bitladder.resume import fingerprint, workspace
    from bitladder.targets.profile import profile
    from bitladder.targets.target import Job
    from bitladder.tasks.task import load_task

    data = Path("build/data/evaluation.safetensors")
    simulated = Path("build/export/fp16" if rung == "fp16" else f"build/qat/{rung}") / "outputs.safetensors"
    with workspace(f"profile-{rung}", fingerprint(params.soc, params.target.samples, files=(model, data))) as work:
        split = load_split(data).first(params.target.samples)
        result = profile(
            Job(model, precision, split, folder, Path("build/notes") / rung, work),
            load_task(params.task.factory, params.task.args).metric,
            (load_tensors(Path("build/baseline/outputs.safetensors")), load_tensors(simulated)),
            params,
        )
    write_json(metrics, result)


if __name__ == "__main__":
    run(main)

"""verify: W16A16 must agree with FP32 before any integer format is trusted."""

from pathlib import Path

from bitladder.running.stage import Params, run

EVIDENCE = Path("build/w16a16-evidence")


def main(params: Params) -> None:
    from bitladder.network.model import load_split, sample_inputs
    from bitladder.quantize.prepare.prepare import load_prepared
    from bitladder.quantize.verify import verify
    from bitladder.running.determinism import seed_all
    from bitladder.running.files import load_tensors, write_json
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(Path("build/data/evaluation.safetensors"))
    model = load_prepared(task, sample_inputs(split), Path("build/baseline/model.safetensors"), params.prepare.exclude)
    result = verify(
        model,
        task.metric,
        split,
        load_tensors(Path("build/baseline/outputs.safetensors")),
        params,
        EVIDENCE,
    )
    write_json(Path("metrics/eval/w16a16.json"), result.record(task.metric, "w16a16 check", 16, 16))


if __name__ == "__main__":
    run(main, torch=True)

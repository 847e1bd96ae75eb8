"""qat@R: a rung trained on where PTQ missed the goal; PTQ's own model where it did not."""

from pathlib import Path
from typing import Any

from bitladder.params import Params
from bitladder.stage import run


def main(params: Params, rung: str) -> None:
    from bitladder.files import copy_file, read_json, write_csv, write_json
    from bitladder.gates import is_skipped, skip_qat
    from bitladder.goals import qat_verdict

    source, folder = Path("build/ptq") / rung, Path("build/qat") / rung
    if is_skipped(source / "sim.safetensors"):
        skip_qat(rung)
        return
    record = read_json(Path(f"metrics/ptq/{rung}.json"))
    history: list[dict[str, Any]] = []
    needed, why = qat_verdict(params.qat.when, params.goals, record, read_json(Path("metrics/eval/fp32.json")))
    if needed:
        trained, history = train(params, rung, source, folder)
        why += "" if trained else "; no epoch beat PTQ on the calibration split, so PTQ's model stays"
        record = trained or record
    if record["technique"] != "qat":
        for name in ("sim.safetensors", "outputs.safetensors"):
            copy_file(source / name, folder / name)
    write_csv(Path(f"metrics/qat/{rung}.csv"), ["epoch", "train_loss", "value", "loss"], history)
    write_json(Path(f"metrics/eval/{rung}.json"), {**record, "qat": why})


def train(params: Params, rung: str, source: Path, folder: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    from bitladder.determinism import seed_all
    from bitladder.evaluate import compare, predict
    from bitladder.files import load_tensors, save_tensors
    from bitladder.model import load_split, sample_inputs
    from bitladder.quantize.prepare import load_prepared
    from bitladder.quantize.qat import train_quantized
    from bitladder.quantize.simulation import build_sim, load_sim, save_sim
    from bitladder.resume import fingerprint, workspace
    from bitladder.tasks.task import load_task
    from bitladder.training import Recipe

    seed_all(params.seed)
    task, bits = load_task(params.task.factory, params.task.args), params.ladder[rung].precision
    paths = {name: Path(f"build/data/{name}.safetensors") for name in ("train", "calibration", "evaluation")}
    splits = {name: load_split(path) for name, path in paths.items()}
    sample = sample_inputs(splits["calibration"])
    sim = build_sim(
        load_prepared(task, sample, Path("build/baseline/model.safetensors"), params.prepare.exclude),
        sample,
        bits,
        params.soc.quantsim_config,
    )
    load_sim(sim, source / "sim.safetensors")
    recipe = Recipe(**params.qat.model_dump(exclude={"when"}), seed=params.seed)
    key = fingerprint(
        params.task,
        recipe,
        params.compute,
        files=(*paths.values(), source / "sim.safetensors", Path("build/task.json")),
    )
    with workspace(f"qat-{rung}", key) as work:
        result = train_quantized(
            sim, task, (splits["train"], splits["calibration"]), recipe, params.evaluate.batch_size, work
        )
    history = [vars(epoch) for epoch in result.history]
    if result.best == 0:
        return None, history
    outputs = predict(sim.model, splits["evaluation"], params.evaluate.batch_size, f"qat {bits}")
    reference = load_tensors(Path("build/baseline/outputs.safetensors"))
    comparison = compare(task.metric, outputs, reference, splits["evaluation"].targets)
    save_sim(folder / "sim.safetensors", sim)
    save_tensors(folder / "outputs.safetensors", outputs)
    return comparison.record(task.metric, "qat", bits.weights, bits.activations), history


if __name__ == "__main__":
    run(main)

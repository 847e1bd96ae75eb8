"""ptq@R: a rung quantized after training, by the techniques that params.yaml asks for."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params, rung: str) -> None:
    from bitladder.decision.gates import LAYER_COLUMNS, descends, skip_ptq

    if not descends(params.ladder[rung].after):
        skip_ptq(params, rung)
        return
    from bitladder.network.evaluate import compare, predict
    from bitladder.network.model import load_split
    from bitladder.quantize.ptq import quantize_rung
    from bitladder.quantize.sim.layers import layer_rows
    from bitladder.quantize.sim.torch_sim import encodings_of, save_sim
    from bitladder.running.determinism import seed_all
    from bitladder.running.files import load_tensors, save_tensors, write_csv, write_json, write_yaml
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task, bits = load_task(params.task.factory, params.task.args), params.ladder[rung].precision
    quantized, model, found = quantize_rung(params, rung, task)
    split = load_split(Path("build/data/evaluation.safetensors"))
    outputs = predict(quantized.sim.model, split, params.evaluate.batch_size, f"ptq {rung}")
    reference = load_tensors(Path("build/baseline/outputs.safetensors"))
    result = compare(task.metric, outputs, reference, split.targets)
    folder = Path("build/ptq") / rung
    save_sim(folder / "sim.safetensors", quantized.sim)
    save_tensors(folder / "outputs.safetensors", outputs)
    write_json(folder / "encodings.json", encodings_of(quantized.sim), exact=True)
    write_csv(Path(f"metrics/layers/{rung}.csv"), LAYER_COLUMNS, layer_rows(model, quantized.sim, split))
    write_yaml(Path(f"metrics/raised/{rung}.yaml"), found.pop("raised"))
    record = result.record(task.metric, quantized.name, bits.weights, bits.activations)
    write_json(Path(f"metrics/ptq/{rung}.json"), record | found)


if __name__ == "__main__":
    run(main, torch=True)

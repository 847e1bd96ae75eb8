"""ptq@R: a rung quantized by calibration."""

from pathlib import Path

from bitladder.params import Params
from bitladder.stage import run


def main(params: Params, rung: str) -> None:
    from bitladder.gates import LAYER_COLUMNS, descends, skip_ptq

    if not descends(params.ladder[rung].after):
        skip_ptq(params, rung)
        return
    from bitladder.determinism import seed_all
    from bitladder.evaluate import compare, predict
    from bitladder.files import load_tensors, save_tensors, write_csv, write_json
    from bitladder.model import load_split, sample_inputs
    from bitladder.quantize.layers import layer_rows
    from bitladder.quantize.prepare import load_prepared
    from bitladder.quantize.ptq import quantize
    from bitladder.quantize.simulation import encodings_of, save_sim
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task, bits = load_task(params.task.factory, params.task.args), params.ladder[rung].precision
    calibration = load_split(Path("build/data/calibration.safetensors"))
    model = load_prepared(
        task, sample_inputs(calibration), Path("build/baseline/model.safetensors"), params.prepare.exclude
    )
    sim, technique = quantize(
        model, sample_inputs(calibration), calibration, bits, params.soc.quantsim_config, params.ptq_of(rung)
    )
    split = load_split(Path("build/data/evaluation.safetensors"))
    outputs = predict(sim.model, split, params.evaluate.batch_size, f"ptq {bits}")
    reference = load_tensors(Path("build/baseline/outputs.safetensors"))
    result = compare(task.metric, outputs, reference, split.targets)
    folder = Path("build/ptq") / rung
    save_sim(folder / "sim.safetensors", sim)
    save_tensors(folder / "outputs.safetensors", outputs)
    write_json(folder / "encodings.json", encodings_of(sim), exact=True)
    write_csv(Path(f"metrics/layers/{rung}.csv"), LAYER_COLUMNS, layer_rows(model, sim, split))
    record = result.record(task.metric, technique, bits.weights, bits.activations)
    write_json(Path(f"metrics/ptq/{rung}.json"), record)


if __name__ == "__main__":
    run(main)

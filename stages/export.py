"""export@R: the rung as QDQ ONNX and as AIMET encodings, checked against the QuantSim's own answers."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params, rung: str) -> None:
    from bitladder.decision.gates import LAYER_COLUMNS, is_skipped, skip_export

    if is_skipped(Path(f"build/qat/{rung}/sim.safetensors")):
        skip_export(rung)
        return
    from bitladder.export.checks import check_answers, check_bias_scales, graph_names, run_unoptimised
    from bitladder.network.model import load_split, output_names, sample_inputs
    from bitladder.quantize.sim.layers import layer_rows
    from bitladder.quantize.sim.restore import restore
    from bitladder.quantize.sim.torch_sim import encodings_of, export_encodings, export_qdq
    from bitladder.running.determinism import seed_all
    from bitladder.running.files import load_tensors, write_csv, write_json
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(Path("build/data/evaluation.safetensors")).first(params.export.samples)
    sample = sample_inputs(split)
    sim, model = restore(params, rung, task, sample, Path(f"build/qat/{rung}/sim.safetensors"))
    simulated = load_tensors(Path(f"build/qat/{rung}/outputs.safetensors"))
    # output_names: in the model's order, which the file of its answers does not keep
    names = graph_names(list(split.inputs), list(output_names(sim.model) or simulated))
    folder = Path("build/export") / rung
    write_csv(Path(f"metrics/export/{rung}.csv"), LAYER_COLUMNS, layer_rows(model, sim, split))
    write_json(folder / "encodings.json", encodings_of(sim), exact=True)
    export_qdq(sim, sample, names, folder / "model.onnx")
    export_encodings(sim, sample, names, folder / "aimet")
    check_bias_scales(folder / "model.onnx")
    answers = run_unoptimised(folder / "model.onnx", split)
    record = check_answers(folder / "model.onnx", answers, simulated, params.export.min_sqnr_db)
    write_json(Path(f"metrics/export/{rung}.json"), record)


if __name__ == "__main__":
    run(main, torch=True)

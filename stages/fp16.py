"""fp16: the network converted to FP16, its answers, and its ONNX."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.export.checks import graph_names
    from bitladder.export.fp16 import HalfPrecision, export_fp16
    from bitladder.network.evaluate import compare, predict
    from bitladder.network.model import build_model, load_split, sample_inputs
    from bitladder.precision import FLOAT
    from bitladder.running.determinism import seed_all
    from bitladder.running.files import load_tensors, save_tensors, write_json
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(Path("build/data/evaluation.safetensors"))
    model = HalfPrecision(build_model(task, Path("build/train/weights.safetensors")))
    outputs = predict(model, split, params.evaluate.batch_size, "fp16")
    reference = load_tensors(Path("build/baseline/outputs.safetensors"))
    result = compare(task.metric, outputs, reference, split.targets)
    folder = Path("build/export/fp16")
    export_fp16(model, sample_inputs(split), graph_names(list(split.inputs), list(outputs)), folder / "model.onnx")
    save_tensors(folder / "outputs.safetensors", outputs)
    write_json(Path("metrics/eval/fp16.json"), result.record(task.metric, "fp16", FLOAT["fp16"], FLOAT["fp16"]))


if __name__ == "__main__":
    run(main, torch=True)

"""baseline: what FP32 answers, and the network made fit for AIMET."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.network.evaluate import Comparison, predict
    from bitladder.network.model import build_model, load_split, sample_inputs
    from bitladder.precision import FLOAT
    from bitladder.quantize.prepare.prepare import check_equal, prepare, save_prepared
    from bitladder.running.determinism import seed_all
    from bitladder.running.files import save_tensors, write_json
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(Path("build/data/evaluation.safetensors"))
    model = build_model(task, Path("build/train/weights.safetensors"))
    outputs = predict(model, split, params.evaluate.batch_size, "fp32")
    result = Comparison(task.metric(outputs, split.targets), 0.0, None, None, len(split))  # the reference itself
    prepared, preparation = prepare(model, sample_inputs(split), params.prepare.exclude, task.quantization)
    check_equal(predict(prepared, split, params.evaluate.batch_size, "prepared"), outputs)
    save_prepared(Path("build/baseline/model.safetensors"), prepared, preparation)
    save_tensors(Path("build/baseline/outputs.safetensors"), outputs)
    record = result.record(task.metric, str(preparation), FLOAT["fp32"], FLOAT["fp32"])
    write_json(Path("metrics/eval/fp32.json"), record)


if __name__ == "__main__":
    run(main, torch=True)

"""ptq@R: a rung quantized after training, by the techniques that params.yaml asks for."""

from bitladder.decision.gates import LAYER_COLUMNS, descends, skip_ptq
from bitladder.params import Params
from bitladder.paths import FP32_OUTPUTS, RungFiles, samples
from bitladder.records import write_record
from bitladder.running.files import load_tensors, save_tensors, write_csv, write_json, write_yaml

__all__ = ["main"]


def main(params: Params, rung: str) -> None:
    """Write build/ptq/R and its metrics; empty files where the ladder was left above."""
    if not descends(params.ladder[rung].after):
        skip_ptq(params, rung)
        return
    from bitladder.network.evaluate import compare, predict
    from bitladder.network.model import load_split
    from bitladder.network.per_sample import save_beside_fp32
    from bitladder.quantize.ptq import quantize_rung
    from bitladder.quantize.sim.layers import layer_rows
    from bitladder.quantize.sim.torch_sim import encodings_of, save_sim
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task, bits, files = load_task(params.task.factory, params.task.args), params.ladder[rung].precision, RungFiles(rung)
    rung_result = quantize_rung(params, rung, task)
    quantized = rung_result.quantized
    split = load_split(samples("evaluation"))
    outputs = predict(quantized.sim.model, split, params.evaluate.batch_size, f"ptq {rung}")
    result = compare(task.metric, outputs, load_tensors(FP32_OUTPUTS), split.targets)
    save_sim(files.ptq_sim, quantized.sim)
    save_tensors(files.ptq_outputs, outputs)
    save_beside_fp32(files.ptq_scores, task.metric, outputs, split.targets)
    write_json(files.ptq_encodings, encodings_of(quantized.sim), exact=True)
    write_csv(files.ptq_layers, LAYER_COLUMNS, layer_rows(rung_result.model, quantized.sim, split))
    write_yaml(files.raised, rung_result.raised)
    record = result.record(task.metric, quantized.name, bits.weights, bits.activations)
    decided = {"tries": tuple(rung_result.tries), "held_out": rung_result.held_out}
    write_record(files.ptq_metrics, record.model_copy(update=decided))

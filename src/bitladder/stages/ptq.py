"""ptq@R: a rung quantized after training, by the techniques that params.yaml asks for."""

from bitladder.decision.left_out import LAYER_COLUMNS, leave_ptq, of_a_rung, why_no_ptq
from bitladder.params import Params
from bitladder.paths import TRAINED, RungFiles
from bitladder.records import write_record
from bitladder.running.files import write_csv, write_json, write_yaml

__all__ = ["main"]


@of_a_rung(why_no_ptq, leave_ptq)
def main(params: Params, rung: str) -> None:
    """Write build/ptq/R and its metrics; the reason where the rung is skipped or refused."""
    from bitladder.network.model import build_model
    from bitladder.network.scoring import save_score, score, scoring
    from bitladder.quantize.ptq import quantize_rung
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.splits import load_samples
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task, bits, files = load_task(params.task.factory, params.task.args), params.ladder[rung].precision, RungFiles(rung)
    rung_result = quantize_rung(params, rung, task)
    quantized = rung_result.quantized
    split, fp32 = load_samples(task, params, "evaluation"), build_model(task, TRAINED)
    quantized.sim.save(files.ptq_sim)
    size = params.evaluate.batch_size
    with scoring(f"ptq-{rung}-scored", params, files.ptq_sim) as work:
        result = score(quantized.sim.model, split, task.metric, size, f"ptq {rung}", fp32, work=work)
    save_score(files.ptq_scores, result)
    write_json(files.ptq_encodings, quantized.sim.encodings(), exact=True)
    write_csv(files.ptq_layers, LAYER_COLUMNS, quantized.sim.layer_rows(rung_result.model, split))
    write_yaml(files.raised, rung_result.raised)
    record = result.comparison.record(task.metric, quantized.name, bits.weights, bits.activations)
    decided = {"tries": tuple(rung_result.tries), "held_out": rung_result.held_out}
    write_record(files.ptq_metrics, record.model_copy(update=decided))

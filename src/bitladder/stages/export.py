"""export@R: the rung as QDQ ONNX and as AIMET encodings, checked against the QuantSim's own outputs."""

from bitladder.decision.left_out import LAYER_COLUMNS, leave_export, of_a_rung, why_left_out
from bitladder.params import Params
from bitladder.paths import TRAINED, RungFiles
from bitladder.records import write_record
from bitladder.running.files import write_csv, write_json

__all__ = ["main"]


@of_a_rung(lambda _, rung: why_left_out(RungFiles(rung).sim), leave_export)
def main(params: Params, rung: str) -> None:
    """Write build/export/R and its metrics."""
    from bitladder.export.checks import check_bias_scales, check_outputs, graph_names
    from bitladder.export.float_tensors import check_float, find_float
    from bitladder.export.layers import note_layers
    from bitladder.export.repairs import repair_file
    from bitladder.network.evaluate import predict
    from bitladder.network.lines import lines_kept
    from bitladder.network.model import build_model, output_names, sample_inputs
    from bitladder.network.target_reference import keep_reference
    from bitladder.quantize.sim.restore import restore
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.samples import held
    from bitladder.tasks.splits import load_samples
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    files = RungFiles(rung)
    task = load_task(params.task.factory, params.task.args)
    evaluation = load_samples(task, params, "evaluation")
    few, sample = held(evaluation.first(params.export.samples)), sample_inputs(evaluation)
    sim, model = restore(params, rung, task, sample, files.sim)
    outputs = output_names(sim.model) or predict(sim.model, few.first(1), 1, "sim")
    names = graph_names(list(few.row(0)), list(outputs))
    write_csv(files.layers, LAYER_COLUMNS, sim.layer_rows(model, few))
    keep_reference(files, sim.model, build_model(task, TRAINED), evaluation, task.metric, params)
    write_json(files.encodings, sim.encodings(), exact=True)
    sim.export_qdq(sample, names, files.model)
    note_layers(files.model, sim.model, lines_kept(model))
    sim.export_encodings(sample, names, files.aimet)
    check_bias_scales(files.model)
    repairs = repair_file(files.model, params.soc, params.export.rules, files.aimet)
    found = check_outputs(files.model, few, sim.model, params.evaluate.batch_size, params.export.min_sqnr_db)
    in_float = find_float(files.model)
    check_float(in_float, params.export.allow_float, rung)
    facts = {
        "repairs": repairs,
        "block_weights": sim.block_weights(),
        "float_share": in_float.share,
        "float_tensors": in_float.tensors,
    }
    write_record(files.export_metrics, found.model_copy(update=facts))

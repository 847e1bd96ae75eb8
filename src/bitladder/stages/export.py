"""export@R: the rung as QDQ ONNX and as AIMET encodings, checked against the QuantSim's own outputs."""

from bitladder.decision.left_out import LAYER_COLUMNS, leave_export, of_a_rung, why_left_out
from bitladder.params import Params
from bitladder.paths import RungFiles, samples
from bitladder.records import write_record
from bitladder.running.files import load_tensors, write_csv, write_json

__all__ = ["main"]


@of_a_rung(lambda _, rung: why_left_out(RungFiles(rung).sim), leave_export)
def main(params: Params, rung: str) -> None:
    """Write build/export/R and its metrics."""
    from bitladder.export.checks import check_bias_scales, check_outputs, graph_names, run_unoptimised
    from bitladder.export.layers import note_layers
    from bitladder.network.lines import lines_kept
    from bitladder.network.model import load_split, output_names, sample_inputs
    from bitladder.quantize.sim.layers import layer_rows
    from bitladder.quantize.sim.restore import restore
    from bitladder.quantize.sim.torch_sim import encodings_of, export_encodings, export_qdq
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    files = RungFiles(rung)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(samples("evaluation")).first(params.export.samples)
    sample = sample_inputs(split)
    sim, model = restore(params, rung, task, sample, files.sim)
    simulated = load_tensors(files.outputs)
    # output_names: in the model's order, which the file of its outputs does not keep
    names = graph_names(list(split.inputs), list(output_names(sim.model) or simulated))
    write_csv(files.layers, LAYER_COLUMNS, layer_rows(model, sim, split))
    write_json(files.encodings, encodings_of(sim), exact=True)
    export_qdq(sim, sample, names, files.model)
    note_layers(files.model, sim.model, lines_kept(model))
    export_encodings(sim, sample, names, files.aimet)
    check_bias_scales(files.model)
    outputs = run_unoptimised(files.model, split)
    found = check_outputs(files.model, outputs, simulated, split.targets, params.export.min_sqnr_db)
    write_record(files.export_metrics, found)

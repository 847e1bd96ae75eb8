"""export@R: the rung as QDQ ONNX and as AIMET encodings, checked against the QuantSim's own outputs."""

from bitladder.decision.gates import LAYER_COLUMNS, is_skipped, skip_export
from bitladder.params import Params
from bitladder.paths import RungFiles, samples
from bitladder.records import write_record
from bitladder.running.files import load_tensors, write_csv, write_json

__all__ = ["main"]


def main(params: Params, rung: str) -> None:
    """Write build/export/R and its metrics."""
    files = RungFiles(rung)
    if is_skipped(files.sim):
        skip_export(rung)
        return
    from bitladder.export.checks import check_bias_scales, check_outputs, graph_names, run_unoptimised
    from bitladder.export.float_tensors import check_float, find_float
    from bitladder.network.model import load_split, output_names, sample_inputs
    from bitladder.quantize.sim.layers import layer_rows
    from bitladder.quantize.sim.restore import restore
    from bitladder.quantize.sim.torch_sim import encodings_of, export_encodings, export_qdq
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
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
    export_encodings(sim, sample, names, files.aimet)
    check_bias_scales(files.model)
    in_float = find_float(files.model)
    check_float(in_float, params.export.allow_float, rung)
    outputs = run_unoptimised(files.model, split)
    found = check_outputs(files.model, outputs, simulated, split.targets, params.export.min_sqnr_db)
    float_facts = {"float_share": in_float.share, "float_tensors": in_float.tensors}
    write_record(files.export_metrics, found.model_copy(update=float_facts))

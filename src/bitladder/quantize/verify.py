"""The W16A16 check: a QuantSim that hardly quantizes must agree with FP32, or nothing below it can be trusted."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from bitladder.errors import RefusedError
from bitladder.network.evaluate import Comparison
from bitladder.network.model import sample_inputs
from bitladder.network.scoring import score
from bitladder.params import Params
from bitladder.precision import Precision
from bitladder.quantize.prepare.task_quantization import task_quantization_of
from bitladder.quantize.sim.layers import LayerSqnr
from bitladder.quantize.sim.sim import Sim, build_sim
from bitladder.running.files import save_tensors, write_csv, write_json, write_text
from bitladder.statistics.limits import allowed, is_within
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Samples, Split, in_memory
from bitladder.tasks.splits import save_split

__all__ = ["verify"]

PRECISION = Precision(16, 16)

EVIDENCE_SAMPLES = 32

SHOWN_BY = {"aimet-torch": "show_w16a16.py", "aimet-onnx": "show_w16a16_onnx.py"}
"""The script that shows it, by the package of AIMET's that it needs."""


def verify(
    model: nn.Module,
    metric: Metric,
    split: Samples,
    reference: nn.Module,
    params: Params,
    evidence: Path | None = None,
    work: Path | None = None,
) -> Comparison:
    """Compare a W16A16 QuantSim of a prepared network with FP32.

    Args:
        model: prepared.
        metric: the task's.
        split: samples to compare on. Ranges are found from them too: one that other samples left too narrow says
            nothing about the tools, and clipping alone can leave under 40 dB.
        reference: the network in FP32.
        params: the limits are its `verify`.
        evidence: folder to leave for an AIMET issue where a limit is passed, if that is wanted.
        work: where a killed pass goes on from; None starts again.

    Raises RefusedError with the figures and the worst layers where a limit is passed.

    """
    sim = build_sim(model, sample_inputs(split), PRECISION, params.soc.quantsim_config)
    sim.calibrate(split, params.evaluate.batch_size)
    size = params.evaluate.batch_size
    found = score(sim.model, split, metric, size, str(PRECISION), reference, work=work)
    result, limits, found_db = found.comparison, params.verify, found.comparison.sqnr_db
    assert found_db is not None
    most = allowed(found.reference_value, limits.max_drop, limits.max_relative_drop)
    if is_within(result.drop, most) and found_db >= limits.min_sqnr_db:
        return result
    few = in_memory(split.first(EVIDENCE_SAMPLES))
    layers = sim.layer_sqnr(model, few)
    facts = {
        "task": params.task.model_dump(),
        "prepare": params.prepare.model_dump(),
        "quantsim_config": task_quantization_of(model).config or params.soc.quantsim_config,
        "drop": result.drop,
        "sqnr_db": found_db,
    }
    left = ""
    if evidence:
        _write_evidence(evidence, sim, few, layers, facts)
        left = f"; {evidence} holds what an AIMET issue needs"
    keys = {"max_drop": limits.max_drop, "max_relative_drop": limits.max_relative_drop}
    asked = ", ".join(f"verify.{key} {limit:g}" for key, limit in keys.items() if limit is not None)
    worst = ", ".join(f"{layer.layer} ({layer.kind}, {layer.sqnr_db:.1f} dB)" for layer in layers[:3])
    raise RefusedError(
        f"W16A16 disagrees with FP32: {metric.name} drops by {result.drop:.4g} ({asked}),"
        f" SQNR {found_db:.1f} dB (verify.min_sqnr_db {limits.min_sqnr_db:g}); worst layers: {worst}{left}"
    )


def _write_evidence(folder: Path, sim: Sim, split: Split, layers: list[LayerSqnr], facts: Mapping[str, Any]) -> None:
    """Leave what an AIMET issue needs: facts, versions, weights, samples, per-layer SQNR, a script that shows it.

    Args:
        folder: is written to; what it held before is replaced file by file.
        sim: at 16/16 bits.
        split: a few samples.
        layers: what layer_sqnr found.
        facts: config, task and figures, for facts.json.

    """
    package = sim.leave_evidence(folder)
    write_text(folder / "show.py", files("bitladder.quantize").joinpath(SHOWN_BY[package]).read_text("utf-8"))
    versions = {name: version(name) for name in (package, "torch", "onnx")}
    write_json(folder / "facts.json", {**facts, "versions": versions})
    write_csv(folder / "layers.csv", ("layer", "kind", "sqnr_db"), map(asdict, layers))
    save_tensors(folder / "weights.safetensors", sim.network.state_dict())
    save_split(folder / "samples.safetensors", split)
    write_text(folder / "model.txt", f"{sim.network}\n")

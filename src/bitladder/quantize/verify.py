"""The W16A16 check: a QuantSim that hardly quantizes must agree with FP32, or nothing below it can be trusted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.evaluate import Comparison, Outputs, compare, predict, sqnr_db
from bitladder.files import save_tensors, write_csv, write_json, write_text
from bitladder.model import sample_inputs, save_split
from bitladder.params import Params
from bitladder.precision import Precision
from bitladder.quantize.hooks import hooked
from bitladder.quantize.onnx_simulation import OnnxSim
from bitladder.quantize.simulation import Sim, build_sim, calibrate, clipped_layers
from bitladder.quantize.wishes import wishes_of
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.task import Metric, Split

__all__ = ["LayerSqnr", "layer_sqnr", "verify"]

PRECISION = Precision(16, 16)

EVIDENCE_SAMPLES = 32


@dataclass(frozen=True)
class LayerSqnr:
    """SQNR of one layer's output in the sim against the same layer's in FP32, in dB."""

    layer: str
    kind: str
    sqnr_db: float


def verify(
    model: nn.Module,
    metric: Metric,
    split: Split,
    reference: Outputs,
    params: Params,
    evidence: Path,
) -> Comparison:
    """Compare a W16A16 QuantSim of a prepared network with FP32.

    Args:
        model: prepared.
        metric: the task's.
        split: samples to compare on. Ranges are found from them too: one that other samples left too narrow says
            nothing about the tools, and clipping alone can leave under 40 dB.
        reference: FP32's answers to them.
        params: the limits are its `verify`.
        evidence: folder to leave for an AIMET issue where a limit is passed.

    Raises UserError with the figures and the worst layers where a limit is passed.

    """
    sim = build_sim(model, sample_inputs(split), PRECISION, params.soc.quantsim_config)
    calibrate(sim, split, params.evaluate.batch_size)
    outputs = predict(sim.model, split, params.evaluate.batch_size, str(PRECISION))
    result = compare(metric, outputs, reference, split.targets)
    limits, found_db = params.verify, sqnr_db(reference, outputs)
    if result.drop <= limits.max_drop and found_db >= limits.min_sqnr_db:
        return result
    few = split.first(EVIDENCE_SAMPLES)
    layers = layer_sqnr(model, sim, few)
    facts = {
        "task": params.task.model_dump(),
        "prepare": params.prepare.model_dump(),
        "quantsim_config": wishes_of(model).config or params.soc.quantsim_config,
        "drop": result.drop,
        "sqnr_db": found_db,
    }
    write_evidence(evidence, model, few, layers, facts)
    worst = ", ".join(f"{layer.layer} ({layer.kind}, {layer.sqnr_db:.1f} dB)" for layer in layers[:3])
    raise UserError(
        f"W16A16 disagrees with FP32: {metric.name} drops by {result.drop:.4f} (verify.max_drop {limits.max_drop:g}),"
        f" SQNR {found_db:.1f} dB (verify.min_sqnr_db {limits.min_sqnr_db:g}); worst layers: {worst};"
        f" {evidence} holds what an AIMET issue needs"
    )


def layer_sqnr(model: nn.Module, sim: Sim, split: Split) -> list[LayerSqnr]:
    """Compare every layer's output in the sim with FP32's on the same samples; worst first.

    Of what feeds only a ReLU or ReLU6, what that lets through is compared: its range is the activation's.
    """
    if isinstance(sim, OnnxSim):
        rows = [LayerSqnr(row["layer"], row["kind"], row["sqnr_db"]) for row in sim.layers(split)]
        return sorted(rows, key=lambda layer: layer.sqnr_db)
    leaves = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if not any(module.children()) and not isinstance(module, nn.Identity)
    }
    reference = _layer_outputs(model, list(leaves), split)
    simulated = _layer_outputs(sim.model, list(leaves), split)
    clipped = clipped_layers(sim)

    def counted(name: str, output: Tensor) -> Outputs:
        return {"output": model.get_submodule(clipped[name])(output) if name in clipped else output}

    found = [
        LayerSqnr(name, leaves[name], sqnr_db(counted(name, output), counted(name, simulated[name])))
        for name, output in reference.items()
    ]
    return sorted(found, key=lambda layer: layer.sqnr_db)


def _layer_outputs(model: nn.Module, layers: list[str], split: Split) -> dict[str, Tensor]:
    """Run a split and give the output of each layer that was called and gives a floating-point tensor."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                outputs[name] = output.detach().clone()

        return hook

    with hooked(model.get_submodule(name).register_forward_hook(keep(name)) for name in layers), torch.no_grad():
        model(*split.inputs.values())
    return outputs


def write_evidence(
    folder: Path, model: nn.Module, split: Split, layers: list[LayerSqnr], facts: Mapping[str, Any]
) -> None:
    """Leave what an AIMET issue needs: facts, versions, weights, samples, per-layer SQNR, a script that shows it.

    Args:
        folder: is written to; what it held before is replaced file by file.
        model: the prepared network.
        split: a few samples.
        layers: what layer_sqnr found.
        facts: config, task and figures, for facts.json.

    """
    came_as_onnx = isinstance(model, OnnxNetwork)
    versions = {name: version(name) for name in ("aimet-onnx" if came_as_onnx else "aimet-torch", "torch", "onnx")}
    write_json(folder / "facts.json", {**facts, "versions": versions})
    write_csv(folder / "layers.csv", ("layer", "kind", "sqnr_db"), map(asdict, layers))
    save_tensors(folder / "weights.safetensors", model.state_dict())
    save_split(folder / "samples.safetensors", split)
    write_text(folder / "model.txt", f"{model}\n")
    if not came_as_onnx:  # model.txt, weights and samples are all that takes; the script builds a network of torch
        write_text(folder / "show.py", files("bitladder.quantize").joinpath("show_w16a16.py").read_text("utf-8"))

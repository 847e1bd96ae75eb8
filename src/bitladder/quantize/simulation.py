"""AIMET's QuantSim: built, calibrated, carried between stages, and exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import aimet_torch.onnx
import torch
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.evaluate import predict
from bitladder.files import load_tensors, replacing, save_tensors
from bitladder.model import keep_output_names, output_names
from bitladder.precision import Precision
from bitladder.quantize.missing import check_layers, check_ranges, leave_unknown, refusal, without_tensors
from bitladder.quantize.onnx_simulation import OnnxSim
from bitladder.quantize.wishes import wishes_of
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.task import Split

__all__ = [
    "OPSET",
    "Sim",
    "build_sim",
    "calibrate",
    "encodings_of",
    "export_encodings",
    "export_qdq",
    "load_sim",
    "save_sim",
]

OPSET = 21
"""The first ONNX opset whose QuantizeLinear takes 4 and 16 bits."""

RANGE_SETTINGS = {"min-max": "tf", "sqnr": "tf_enhanced"}  # ours, in AIMET's words

Sim: TypeAlias = QuantizationSimModel | OnnxSim
"""By aimet-torch, or by aimet-onnx where the network came as ONNX."""

_EXTRA = "::"  # parts a quantizer's own state from its name: safetensors has no nested values


def build_sim(
    model: nn.Module,
    sample: tuple[Tensor, ...],
    precision: Precision,
    config: str,
    range_setting: str = "min-max",
) -> Any:
    """Put quantizers into a prepared network, as the HTP config of a Hexagon generation or the task's own asks.

    Returns: a Sim. Raises UserError that names the layers which AIMET does not know how to quantize.
    """
    if isinstance(model, OnnxNetwork):
        return OnnxSim(model, precision, config, range_setting)
    wishes = wishes_of(model)
    leave_unknown(model, wishes.exclude)
    try:
        sim = QuantizationSimModel(
            model,
            sample,
            quant_scheme=RANGE_SETTINGS[range_setting],
            default_output_bw=precision.activations,
            default_param_bw=precision.weights,
            config_file=wishes.config or config,
        )
    except Exception as error:  # AIMET and its configuration's schema raise many kinds
        raise UserError(refusal(model, error, wishes.config)) from None
    sim.exclude_layers_from_quantization([sim.model.get_submodule(name) for name in wishes.exclude])
    if names := output_names(model):
        keep_output_names(sim.model, names)
    check_layers(sim, wishes.exclude)
    return sim


def calibrate(sim: Sim, split: Split, batch_size: int) -> None:
    """Find the quantizers' ranges from samples. Raise UserError where a layer is left without one."""
    if isinstance(sim, OnnxSim):
        sim.calibrate(split)
        return
    forward: Callable[[nn.Module], Any] = lambda model: predict(model, split, batch_size, "calibrate")  # noqa: E731
    with without_tensors(sim) as plain:
        sim.compute_encodings(forward)
    check_ranges(sim, plain)


def save_sim(path: Path, sim: Sim) -> None:
    """Write weights and quantizers as safetensors."""
    if isinstance(sim, OnnxSim):
        sim.save(path)
        return
    tensors = {}
    for name, value in sim.model.state_dict().items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:  # a quantizer's extra state: a dict of tensors, bit-widths among them
            tensors |= {f"{name}{_EXTRA}{part}": item for part, item in value.items()}
    save_tensors(path, tensors)


def load_sim(sim: Sim, path: Path) -> None:
    """Put what save_sim wrote into a sim built with the same arguments; stored bit-widths win over the sim's."""
    if isinstance(sim, OnnxSim):
        sim.load(path)
        return
    state: dict[str, Any] = {}
    for name, value in load_tensors(path).items():
        owner, _, part = name.partition(_EXTRA)
        if part:
            state.setdefault(owner, {})[part] = value
        else:
            state[name] = value
    sim.model.load_state_dict(state)


def encodings_of(sim: Sim) -> dict[str, Any]:
    """Give every quantizer's encoding by the name it has in the network, scales in full precision."""
    if isinstance(sim, OnnxSim):
        return sim.encodings()
    found = {}
    for name, quantizer in sorted(sim.named_quantizers()):
        encodings = quantizer.get_encodings()
        if encodings is not None:
            found[name] = encodings.to_qnn_encoding_dict("1.0.0")
    return found


def export_qdq(
    sim: Sim,
    sample: tuple[Tensor, ...],
    names: tuple[list[str], list[str]],
    path: Path,
    int32_bias: bool = False,
) -> None:
    """Write the sim as ONNX with QuantizeLinear and DequantizeLinear nodes, for a batch of one.

    Biases stay in float: AIMET's default, int32, gives a bias whose convolution has no quantizer of its own at the
    input a scale that runtimes do not expect, and the NPU then answers nonsense without a word.

    Args:
        sim: calibrated.
        sample: the first sample, as the network takes it.
        names: of the graph's inputs and outputs.
        path: of the .onnx file.
        int32_bias: AIMET's default; only for showing what it does.

    """
    if isinstance(sim, OnnxSim):
        sim.export_qdq(path, int32_bias)
        return
    with replacing(path) as temporary, torch.no_grad():
        aimet_torch.onnx.export(
            sim,
            sample,
            str(temporary),
            export_int32_bias=int32_bias,
            prequantize_constants=True,
            **_graph(names),
        )


def export_encodings(sim: Sim, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], folder: Path) -> None:
    """Write the plain FP32 graph and AIMET's encodings beside it, as Qualcomm's converters take them."""
    if isinstance(sim, OnnxSim):
        sim.export_encodings(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    sim.onnx.export(sample, str(folder / "model.onnx"), encoding_version="1.0.0", **_graph(names))


def _graph(names: tuple[list[str], list[str]]) -> dict[str, Any]:
    # dynamo=True leaves files with random names beside the graph
    return {"input_names": names[0], "output_names": names[1], "opset_version": OPSET, "dynamo": False}

"""AIMET's QuantSim: built, calibrated, carried between stages, and exported."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

import aimet_torch.onnx
import torch
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.errors import RefusedError, UserError
from bitladder.network.evaluate import run_all
from bitladder.network.model import carry_notes
from bitladder.network.placement import on_device, placed
from bitladder.precision import OPSET, Precision
from bitladder.quantize.prepare.task_quantization import task_quantization_of
from bitladder.quantize.sim.aimet import learn_types, without_transformers
from bitladder.quantize.sim.integers import keep_integer
from bitladder.quantize.sim.joined import part_joined_torch
from bitladder.quantize.sim.missing import check_layers, check_ranges, leave_unknown, refusal, without_tensors
from bitladder.quantize.sim.onnx_sim import OnnxSim
from bitladder.quantize.sim.operands import quantize_embeddings, quantize_operands
from bitladder.quantize.sim.unused import unused_layers
from bitladder.running.files import load_tensors, replacing, save_tensors
from bitladder.running.patches import in_force
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.samples import Samples

__all__ = [
    "Sim",
    "build_sim",
    "calibrate",
    "clipped_layers",
    "copy_sim",
    "encodings_of",
    "export_encodings",
    "export_qdq",
    "keep_relu",
    "load_sim",
    "needs_relu",
    "plain_tensors",
    "save_sim",
    "set_layers",
    "swap_relu6",
]

RANGE_SETTINGS = {"min-max": "tf", "sqnr": "tf_enhanced"}  # ours, in AIMET's words

_SWAPPED = "bitladder_relu6_swapped"

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

    Returns: a Sim. Raises RefusedError that names the layers which AIMET does not know how to quantize.
    """
    if isinstance(model, OnnxNetwork):
        return OnnxSim(model, precision, config, range_setting)
    if in_force("lean-quantizers"):
        from bitladder.quantize.sim import fast_quant  # here: another AIMET may lack what it imports

        fast_quant.install()
    if in_force("small-scales"):
        from bitladder.quantize.sim import small_scales

        small_scales.install()
    placed(model)
    sample = on_device(sample)
    learn_types(model)
    quantization = task_quantization_of(model)
    leave_unknown(model, quantization.exclude)
    try:
        with without_transformers():
            sim = QuantizationSimModel(
                model,
                sample,
                quant_scheme=RANGE_SETTINGS[range_setting],
                default_output_bw=precision.activations,
                default_param_bw=precision.weights,
                config_file=quantization.config or config,
            )
    except Exception as error:  # AIMET and its configuration's schema raise many kinds
        raise RefusedError(refusal(model, error, quantization.config)) from None
    left = [*quantization.exclude, *unused_layers(model, sample)]
    sim.exclude_layers_from_quantization([sim.model.get_submodule(name) for name in left])
    quantize_operands(sim, model, sample, precision)
    quantize_embeddings(sim, precision)
    part_joined_torch(sim)
    carry_notes(model, sim.model)
    check_layers(sim, left)
    return sim


def plain_tensors() -> AbstractContextManager[None]:
    """Give the context in which quantizers return plain tensors, where the lean quantizers are in force."""
    if not in_force("lean-quantizers"):
        return nullcontext()
    from bitladder.quantize.sim import fast_quant

    return fast_quant.plain_tensors()


def copy_sim(
    sim: QuantizationSimModel, model: nn.Module, sample: tuple[Tensor, ...], precision: Precision, config: str
) -> QuantizationSimModel:
    """Give a sim of its own with the same weights, bits and ranges; AIMET's own graph of a network copies badly.

    Args:
        sim: built from `model`, and calibrated.
        model: the float network.
        sample: a batch of one.
        precision: with which it was built.
        config: with which it was built.

    """
    other = build_sim(model, sample, precision, config)
    other.model.load_state_dict(sim.model.state_dict())
    for own, quantizer in zip(sim.model.modules(), other.model.modules(), strict=True):
        if isinstance(own, QuantizerBase):
            # ranges that a technique has fixed stay so
            quantizer.allow_overwrite(**own._is_overwrite_allowed)
    return other


def set_layers(sim: QuantizationSimModel, layers: Mapping[str, Precision]) -> None:
    """Give some layers bits of their own, before calibration. Raise UserError where there is no such layer."""
    quantized = {name: module for name, module in sim.model.named_modules() if isinstance(module, QuantizationMixin)}
    for name, precision in layers.items():
        if name not in quantized:
            near = ", ".join(get_close_matches(name, quantized, 3, 0.3)) or ", ".join(list(quantized)[:5])
            raise UserError(f"ladder: layers: the network has no quantized layer {name!r}; near it are {near}")
        weights = dict(quantized[name].param_quantizers).get("weight")
        if weights is not None:
            weights.bitwidth = precision.weights
        for output in quantized[name].output_quantizers:
            if output is not None:
                output.bitwidth = precision.activations


def swap_relu6(model: nn.Module) -> bool:
    """Put ReLU in the place of every ReLU6 of a float network; whether there was one."""
    found = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU6)]
    for name in found:
        model.set_submodule(name, nn.ReLU())
    return bool(found)


def keep_relu(model: nn.Module) -> None:
    """Note on a float network that its ReLU6 became ReLU, so that the next stage builds it so."""
    setattr(model, _SWAPPED, True)


def needs_relu(path: Path) -> bool:
    """Whether what save_sim wrote is of a network whose ReLU6 became ReLU."""
    return _SWAPPED in load_tensors(path)


def calibrate(sim: Sim, split: Samples, batch_size: int) -> None:
    """Find the quantizers' ranges from samples. Raise RefusedError where a layer is left without one."""
    if isinstance(sim, OnnxSim):
        sim.calibrate(split)
        return
    forward: Callable[[nn.Module], Any] = lambda model: run_all(model, split, batch_size, "calibrate")  # noqa: E731
    with without_tensors(sim) as plain:
        sim.compute_encodings(forward)
    check_ranges(sim, plain)
    _clip_to_activations(sim)


def _clip_to_activations(sim: QuantizationSimModel) -> None:
    """Give what feeds only a ReLU or ReLU6 that activation's own range.

    AIMET fuses no depthwise convolution with its activation, as HTP does not, and spends the bits of the
    convolution's output on values that the activation then clips.
    """
    for layer, activation in clipped_layers(sim).items():
        own: Any = sim.model.get_submodule(layer).output_quantizers[0]
        clipped: Any = sim.model.get_submodule(activation).output_quantizers[0]
        own.set_range(clipped.get_min(), clipped.get_max())


def clipped_layers(sim: QuantizationSimModel) -> dict[str, str]:
    """Name the layers with an output quantizer of their own that feed only a ReLU or ReLU6, each with that."""
    modules = dict(sim.model.named_modules())
    found = {}
    for operation in sim.connected_graph.get_all_ops().values():
        readers = operation.output_ops or []
        if len(readers) != 1:
            continue
        names = [one.dotted_name.partition(".")[2] for one in (operation, readers[0])]  # first: the network's class
        layer, activation = map(modules.get, names)
        if isinstance(activation, nn.ReLU | nn.ReLU6) and _has_range(layer) and _has_range(activation):
            found[names[0]] = names[1]
    return found


def _has_range(module: nn.Module | None) -> bool:
    quantizer: Any = module.output_quantizers[0] if isinstance(module, QuantizationMixin) else None
    return quantizer is not None and quantizer.is_initialized()


def save_sim(path: Path, sim: Sim) -> None:
    """Write weights and quantizers as safetensors."""
    if isinstance(sim, OnnxSim):
        sim.save(path)
        return
    tensors = {_SWAPPED: torch.ones(1)} if getattr(sim.model, _SWAPPED, False) else {}
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
    tensors = load_tensors(path)
    tensors.pop(_SWAPPED, None)
    for name, value in tensors.items():
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
    input a scale that runtimes do not expect, and the NPU's outputs are then wrong without a message.

    Args:
        sim: calibrated.
        sample: the first sample, as the network takes it.
        names: of the graph's inputs and outputs.
        path: of the .onnx file.
        int32_bias: AIMET's default; only for showing what it does.

    """
    if isinstance(sim, OnnxSim):
        sim.export_qdq(path, int32_bias)
        keep_integer(path)
        return
    sim.model.to("cpu")
    # redirect_stdout: where it fails, torch prints the whole graph
    with replacing(path) as temporary, torch.no_grad(), redirect_stdout(StringIO()):
        aimet_torch.onnx.export(
            sim,
            sample,
            str(temporary),
            export_int32_bias=int32_bias,
            prequantize_constants=True,
            **_graph(names),
        )
    keep_integer(path)


def export_encodings(sim: Sim, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], folder: Path) -> None:
    """Write the plain FP32 graph and AIMET's encodings beside it, as Qualcomm's converters take them."""
    if isinstance(sim, OnnxSim):
        sim.export_encodings(folder)
        return
    sim.model.to("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    sim.onnx.export(sample, str(folder / "model.onnx"), encoding_version="1.0.0", **_graph(names))


def _graph(names: tuple[list[str], list[str]]) -> dict[str, Any]:
    # dynamo=True leaves files with random names beside the graph
    return {"input_names": names[0], "output_names": names[1], "opset_version": OPSET, "dynamo": False}

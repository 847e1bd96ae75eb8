"""AIMET's QuantSim of a network of torch: built, calibrated, carried between stages, and exported."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import aimet_torch.onnx
import torch
from aimet_torch.cross_layer_equalization import equalize_model
from aimet_torch.meta.connectedgraph_utils import get_module_act_func_pair
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.seq_mse import apply_seq_mse
from aimet_torch.utils import remove_activation_quantizers
from torch import Tensor, nn

from bitladder.errors import RefusedError, UserError
from bitladder.network.evaluate import run_all
from bitladder.network.model import carry_notes
from bitladder.network.placement import on_device, placed
from bitladder.precision import OPSET, Precision
from bitladder.quantize.prepare.task_quantization import task_quantization_of
from bitladder.quantize.sim import lean, torch_layers
from bitladder.quantize.sim.aimet import learn_types, without_transformers
from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.block_weights import block_weights, load_state, set_blocks, with_shape
from bitladder.quantize.sim.clipped import clip_to_activations, read_by_relus
from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.integers import keep_integer
from bitladder.quantize.sim.isolated import isolated, quantized_layers
from bitladder.quantize.sim.joined import part_joined_torch
from bitladder.quantize.sim.layers import Cost, LayerSqnr, What, no_such_layer
from bitladder.quantize.sim.masks import bound_masks
from bitladder.quantize.sim.missing import check_layers, check_ranges, leave_unknown, refusal, without_tensors
from bitladder.quantize.sim.operands import quantize_embeddings, quantize_operands
from bitladder.quantize.sim.relu6 import NOTE, note_of
from bitladder.quantize.sim.tied import tie_torch
from bitladder.quantize.sim.unfused import part_unfused_torch
from bitladder.quantize.sim.unused import unused_layers
from bitladder.records import BlockWeights
from bitladder.running.files import load_tensors, replacing, save_tensors
from bitladder.tasks.samples import Samples

__all__ = ["TorchSim"]

RANGE_SETTINGS = {"min-max": "tf", "sqnr": "tf_enhanced"}  # ours, in AIMET's words

_EXTRA = "::"  # parts a quantizer's own state from its name: safetensors has no nested values


class TorchSim:
    """A Sim by aimet-torch."""

    def __init__(
        self,
        network: nn.Module,
        sample: tuple[Tensor, ...],
        precision: Precision,
        config: str,
        range_setting: str = "min-max",
    ) -> None:
        """Build it as build_sim says."""
        self.network, self._built_with = network, (sample, precision, config, range_setting)
        lean.install()
        placed(network)
        sample = on_device(sample)
        learn_types(network)
        quantization = task_quantization_of(network)
        leave_unknown(network, quantization.exclude)
        try:
            with without_transformers():
                self.aimet = QuantizationSimModel(
                    network,
                    sample,
                    quant_scheme=RANGE_SETTINGS[range_setting],
                    default_output_bw=precision.activations,
                    default_param_bw=precision.weights,
                    config_file=quantization.config or config,
                )
        except Exception as error:  # AIMET and its configuration's schema raise many kinds
            raise RefusedError(refusal(network, error, quantization.config)) from None
        bound_masks(self.model)
        left = [*quantization.exclude, *unused_layers(network, sample)]
        self.aimet.exclude_layers_from_quantization([self.model.get_submodule(name) for name in left])
        quantize_operands(self.aimet, network, sample, precision)
        quantize_embeddings(self.aimet, precision)
        part_joined_torch(self.aimet)
        part_unfused_torch(self.aimet)
        tie_torch(self.model, network, sample, quantization.tied)
        carry_notes(network, self.model)
        check_layers(self.aimet, left)

    @property
    def model(self) -> nn.Module:
        """The simulated network."""
        return self.aimet.model

    @staticmethod
    def swap_relu6(network: nn.Module) -> bool:
        """Put ReLU in the place of every ReLU6."""
        found = [name for name, module in network.named_modules() if isinstance(module, nn.ReLU6)]
        for name in found:
            network.set_submodule(name, nn.ReLU())
        return bool(found)

    @staticmethod
    def equalize(network: nn.Module, sample: tuple[Tensor, ...]) -> None:
        """Move scales between neighbouring layers; AIMET passes over those with ReLU6 between them."""
        equalize_model(network, dummy_input=sample)

    def calibrate(self, samples: Samples, batch_size: int) -> None:
        """Find the quantizers' ranges."""
        with without_tensors(self.aimet) as plain:
            self.aimet.compute_encodings(lambda model: run_all(model, samples, batch_size, "calibrate"))
        check_ranges(self.aimet, plain)
        clip_to_activations(self.aimet)

    def set_layers(self, layers: Mapping[str, Precision]) -> None:
        """Give some layers bits of their own."""
        modules = self.model.named_modules()
        quantized = {name: module for name, module in modules if isinstance(module, QuantizationMixin)}
        for name, precision in layers.items():
            if name not in quantized:
                raise UserError(no_such_layer(name, list(quantized)))
            weights = dict(quantized[name].param_quantizers).get("weight")
            if weights is not None:
                weights.bitwidth = precision.weights
            for owner in {name, self.ending(name)} - (layers.keys() - {name}):
                for output in quantized[owner].output_quantizers:
                    if output is not None:
                        output.bitwidth = precision.activations

    def ending(self, name: str) -> str:
        """Ask AIMET's graph of the network."""
        return read_by_relus(self.aimet).get(name, name)

    def set_blocks(self, size: int | None) -> None:
        """Divide the weights of layers that the NPU takes so."""
        if size:
            set_blocks(self.model, size)

    def block_weights(self) -> BlockWeights | None:
        """Ask the weights' quantizers."""
        return block_weights(self.model)

    def layers(self, what: What) -> dict[str, str]:
        """Name the layers that quantize a weight, or an output."""
        own = quantized_layers(self.model, what)
        return {name: type(self.network.get_submodule(name)).__name__ for name in own}

    def isolated(self, names: Collection[str], what: What) -> AbstractContextManager[None]:
        """Leave only these layers' quantizers."""
        return isolated(self.model, names, what)

    def costs(self) -> dict[str, Cost]:
        """Run the float network once, and count positions."""
        layers: dict[str, Any] = {name: self.network.get_submodule(name) for name in self.layers("weight")}
        positions: dict[str, int] = {}

        def count(name: str) -> Any:
            def hook(module: Any, inputs: object, output: Tensor) -> None:
                positions[name] = max(1, output.numel() // module.weight.shape[0])

            return hook

        with hooked(layer.register_forward_hook(count(name)) for name, layer in layers.items()), torch.no_grad():
            self.network(*on_device(self._built_with[0]))
        return {name: Cost(layer.weight.numel(), positions.get(name, 1)) for name, layer in layers.items()}

    def batches(self, samples: Samples, size: int) -> Batches:
        """Give samples in batches of the size asked for."""
        return Batches(samples, size)

    @contextmanager
    def as_modules(self, activations: bool = True) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Give both networks as they are."""
        with nullcontext() if activations else remove_activation_quantizers(self.model):
            yield self.network, self.model

    def followers(self, network: nn.Module) -> Mapping[nn.Module, nn.Module | None]:
        """Ask AIMET's graph of the network."""
        return get_module_act_func_pair(network, on_device(self._built_with[0]))

    def search_ranges(self, batches: Batches, candidates: int, folder: Path) -> None:
        """Find weight ranges by SeqMSE; AIMET passes over weights of more than 4 bits without a word."""
        apply_seq_mse(self.aimet, batches, candidates, lambda model, inputs: model(*inputs), cache_dir=str(folder))

    def put_back_weights(self, names: Iterable[str]) -> None:
        """Give layers their float weights."""
        for name in names:
            layer: Any = self.model.get_submodule(name)
            layer.param_quantizers["weight"].allow_overwrite(True)
            with torch.no_grad():
                layer.weight.copy_(self.network.get_parameter(f"{name}.weight"))

    def put_back_biases(self) -> None:
        """Give all layers their float biases."""
        own = dict(self.model.named_parameters())
        for name, values in self.network.named_parameters():
            if name.endswith(".bias"):
                own[name].data.copy_(values)

    def copy(self) -> "TorchSim":
        """Build another, as AIMET's own graph of a network copies badly, and put the state in."""
        other = TorchSim(self.network, *self._built_with)
        load_state(other.model, self.model.state_dict())
        pairs: Any = zip(self.model.modules(), other.model.modules(), strict=True)
        for own, quantizer in pairs:
            if isinstance(own, QuantizerBase):
                # ranges that a technique has fixed stay so
                quantizer.allow_overwrite(**own._is_overwrite_allowed)
        return other

    def save(self, path: Path) -> None:
        """Write weights and quantizers."""
        tensors = note_of(self.model)
        for name, value in self.model.state_dict().items():
            if isinstance(value, Tensor):
                tensors[name] = value
            else:  # a quantizer's extra state: a dict of tensors, bit-widths among them
                tensors |= {f"{name}{_EXTRA}{part}": item for part, item in value.items()}
        save_tensors(path, tensors)

    def load(self, path: Path) -> None:
        """Put in what `save` wrote."""
        state: dict[str, Any] = {}
        tensors = load_tensors(path)
        tensors.pop(NOTE, None)
        for name, value in tensors.items():
            owner, _, part = name.partition(_EXTRA)
            if part:
                state.setdefault(owner, {})[part] = value
            else:
                state[name] = value
        load_state(self.model, state)

    def encodings(self) -> dict[str, Any]:
        """Give the encodings."""
        found = {}
        for name, quantizer in sorted(self.aimet.named_quantizers()):
            encodings = quantizer.get_encodings()
            if encodings is not None:
                found[name] = with_shape(encodings).to_qnn_encoding_dict("1.0.0")
        return found

    def layer_sqnr(self, network: nn.Module, split: Samples) -> list[LayerSqnr]:
        """Compare layers' outputs."""
        return torch_layers.layer_sqnr(network, self.aimet, split)

    def layer_rows(self, network: nn.Module, split: Samples) -> list[dict[str, Any]]:
        """Give a row a layer."""
        return torch_layers.layer_rows(network, self.aimet, split)

    def leave_evidence(self, folder: Path) -> str:
        """Leave nothing: the script builds the network anew."""
        return "aimet-torch"

    def export_qdq(
        self, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], path: Path, int32_bias: bool = False
    ) -> None:
        """Write the QDQ graph."""
        self.model.to("cpu")
        # redirect_stdout: where it fails, torch prints the whole graph
        with replacing(path) as temporary, torch.no_grad(), redirect_stdout(StringIO()):
            aimet_torch.onnx.export(
                self.aimet,
                sample,
                str(temporary),
                export_int32_bias=int32_bias,
                prequantize_constants=True,
                **_graph(names),
            )
        keep_integer(path)

    def export_encodings(self, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], folder: Path) -> None:
        """Write the FP32 graph and the encodings."""
        self.model.to("cpu")
        folder.mkdir(parents=True, exist_ok=True)
        self.aimet.onnx.export(sample, str(folder / "model.onnx"), encoding_version="1.0.0", **_graph(names))


def _graph(names: tuple[list[str], list[str]]) -> dict[str, Any]:
    # dynamo=True leaves files with random names beside the graph
    return {"input_names": names[0], "output_names": names[1], "opset_version": OPSET, "dynamo": False}

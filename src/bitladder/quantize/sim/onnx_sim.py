"""QuantSim of a network that came as ONNX, by aimet-onnx."""

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.errors import RefusedError, UserError
from bitladder.network.model import keep_output_names
from bitladder.precision import Precision
from bitladder.quantize.prepare.onnx_prepare import quiet
from bitladder.quantize.prepare.task_quantization import task_quantization_of
from bitladder.quantize.sim import lean
from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.integers import keep_integer
from bitladder.quantize.sim.joined import part_joined_onnx
from bitladder.quantize.sim.layers import SAMPLES, Cost, LayerSqnr, What, no_such_layer
from bitladder.quantize.sim.onnx_block_weights import block_weights, set_blocks
from bitladder.quantize.sim.onnx_clipped import clip_to_activations
from bitladder.quantize.sim.onnx_layers import cost_of, node_rows, rows_of
from bitladder.quantize.sim.onnx_modules import Modules, followers
from bitladder.quantize.sim.onnx_names import Names
from bitladder.quantize.sim.onnx_ranges import set_ranges, widen_padded
from bitladder.quantize.sim.onnx_small_scales import with_small_scales
from bitladder.quantize.sim.onnx_sqnr import RANGE_SETTINGS, with_weight_ranges
from bitladder.quantize.sim.onnx_state import put_weights, set_state, state_of, weights_of
from bitladder.quantize.sim.relu6 import note_of
from bitladder.quantize.sim.tied import tie_onnx
from bitladder.quantize.sim.unfused import part_unfused_onnx
from bitladder.records import BlockWeights
from bitladder.running.files import load_tensors, replacing, save_tensors
from bitladder.tasks.onnx_model import OnnxNetwork, run_samples
from bitladder.tasks.samples import Samples

__all__ = ["OnnxSim"]

SEQ_MSE_BITS = 4


class OnnxSim:
    """A Sim by aimet-onnx. Its layers are the graph's nodes; techniques see them as modules of torch."""

    def __init__(
        self,
        network: OnnxNetwork,
        sample: tuple[Tensor, ...],
        precision: Precision,
        config: str,
        range_setting: str = "min-max",
    ) -> None:
        """Build it as build_sim says."""
        quiet()
        lean.install()
        from aimet_onnx.common.defs import qtype
        from aimet_onnx.quantsim import QuantizationSimModel

        quantization = task_quantization_of(network)
        self.network, self._built_with = network, (sample, precision, config, range_setting)
        self._folder = TemporaryDirectory()  # aimet-onnx's own is not cleared away at the end of the process
        try:
            self.aimet: QuantizationSimModel = QuantizationSimModel(
                copy.deepcopy(network.proto),
                param_type=qtype.int(precision.weights),
                activation_type=qtype.int(precision.activations),
                quant_scheme=RANGE_SETTINGS[range_setting],
                config_file=quantization.config or config,
                path=self._folder.name,
                session_options_kwargs={"intra_op_num_threads": torch.get_num_threads()},
            )
        except Exception as error:  # aimet-onnx raises many kinds
            reason = " ".join(str(error).split())[:300]
            raise RefusedError(f"task: aimet-onnx builds no QuantSim of {network.source}: {reason}") from None
        self._quantizers: dict[str, Any] = self.aimet.qc_quantize_op_dict
        self._names = Names(network, self._quantizers)
        self._names.leave(quantization.exclude)
        if bare := self._names.bare(quantization.exclude):
            raise RefusedError(
                f"task: the QuantSim has no quantizers in {', '.join(bare[:5])} (its weight); say that they stay in"
                " float by Quantization.exclude"
            )
        part_joined_onnx(self.aimet)
        part_unfused_onnx(self.aimet)
        tie_onnx(self.aimet, network, quantization.tied, quantization.exclude)
        self.model: nn.Module = _SimNetwork(self.aimet, network)

    @staticmethod
    def swap_relu6(network: OnnxNetwork) -> bool:
        """Put Relu in the place of every Clip from 0 to 6."""
        return network.swap_relu6()

    @staticmethod
    def equalize(network: OnnxNetwork, sample: tuple[Tensor, ...]) -> None:
        """Move scales between neighbouring convolutions."""
        from aimet_onnx.cross_layer_equalization import CrossLayerScaling

        network.put(network.tensors())  # the bytes of constants as aimet-onnx changes them
        CrossLayerScaling(network.proto).scale_model()

    def calibrate(self, samples: Samples, batch_size: int) -> None:
        """Find the quantizers' ranges, sample by sample."""
        rows = tqdm(rows_of(samples), desc="calibrate", unit="sample", total=len(samples), leave=False)
        with with_weight_ranges(self.aimet, self._built_with[-1]), with_small_scales(self.aimet, samples):
            self.aimet.compute_encodings(iter(rows))
        clip_to_activations(self.network.proto.graph, self._quantizers)
        widen_padded(self.network.proto.graph, self._quantizers)
        names = self._names.as_of_torch()
        empty = [names[key] for key, one in self._quantizers.items() if one.enabled and not one.is_initialized()]
        if empty:
            raise RefusedError(
                f"task: calibration left no range in {', '.join(empty[:5])}; no sample runs through them"
            )

    def set_layers(self, layers: Mapping[str, Precision]) -> None:
        """Give some nodes bits of their own."""
        quantized = list(dict.fromkeys([*self.layers("weight"), *self.layers("activation")]))
        for name, precision in layers.items():
            if name not in quantized:
                raise UserError(no_such_layer(name, quantized))
            for key in self._names.weights([name]):
                self._quantizers[key].set_bitwidth(precision.weights)
            for owner in {name, self.ending(name)} - (layers.keys() - {name}):
                for key in self._names.outputs(owner):
                    self._quantizers[key].set_bitwidth(precision.activations)

    def ending(self, name: str) -> str:
        """Look at the graph."""
        return self._names.ending(name)

    def set_blocks(self, size: int | None) -> None:
        """Divide the weights of nodes that the NPU takes so."""
        if size:
            set_blocks(self.network.proto.graph.node, self._quantizers, size)

    def block_weights(self) -> BlockWeights | None:
        """Ask the weights' quantizers."""
        return block_weights({name: self._quantizers[self._names.weights([name])[0]] for name in self.layers("weight")})

    def layers(self, what: What) -> dict[str, str]:
        """Name the nodes that quantize a weight, or an output."""
        find = (lambda name: self._names.weights([name])) if what == "weight" else self._names.activations
        return {name: node.op_type for name, node in self._names.nodes.items() if find(name)}

    @contextmanager
    def isolated(self, names: Collection[str], what: What) -> Iterator[None]:
        """Leave only these nodes' quantizers."""
        kept = (
            self._names.weights(names)
            if what == "weight"
            else [key for name in names for key in self._names.activations(name)]
        )
        with self._without({*self._quantizers} - set(kept)):
            yield

    def costs(self) -> dict[str, Cost]:
        """Take sizes from the graph."""
        return {name: cost_of(self.network, name) for name in self.layers("weight")}

    def batches(self, samples: Samples, size: int) -> Batches:
        """Give samples one by one, as the graph is for a batch of one."""
        return Batches(samples, 1)

    @contextmanager
    def as_modules(self, activations: bool = True) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Give the graph as modules; take what they have become."""
        with self._without([] if activations else self.aimet.activation_names):
            modules = Modules(self.aimet, self.network.tensors(), activations)
            yield modules.reference, modules.model
        values: dict[str, np.ndarray] = {}
        for change in modules.changes():
            values |= change.values
            quantizer = self._quantizers.get(change.weight)
            if quantizer is not None and change.ranges is not None:
                quantizer._is_encoding_frozen = False
                set_ranges(quantizer, change.ranges)
            if quantizer is not None and change.frozen:
                quantizer.freeze_encodings()
        put_weights(self.aimet, values)

    def followers(self, network: nn.Module) -> Mapping[nn.Module, nn.Module | None]:
        """Look at the graph of modules."""
        return followers(network)

    def search_ranges(self, batches: Batches, candidates: int, folder: Path) -> None:
        """Find weight ranges by aimet-onnx's SeqMSE, of weights of few bits only, as aimet-torch does."""
        from aimet_onnx import apply_seq_mse

        rows = list(rows_of(batches.split))
        wide = [
            name
            for name in self.layers("weight")
            if self._quantizers[self._names.nodes[name].input[1]].bitwidth > SEQ_MSE_BITS
        ]
        apply_seq_mse(self.aimet, rows, candidates, nodes_to_exclude=wide)

    def put_back_weights(self, names: Iterable[str]) -> None:
        """Give nodes their float weights."""
        keys = self._names.weights(names)
        for key in keys:
            self._quantizers[key]._is_encoding_frozen = False
        own = self.network.tensors()
        put_weights(self.aimet, {key: own[key] for key in keys})

    def put_back_biases(self) -> None:
        """Give all nodes the float network's other constants; of these only biases change."""
        weights = set(self._names.weights(self._names.nodes))
        own = {name: values for name, values in self.network.tensors().items() if name not in weights}
        put_weights(self.aimet, own)

    def copy(self) -> "OnnxSim":
        """Build another, and put the state in."""
        other = OnnxSim(self.network, *self._built_with)
        set_state(other.aimet, state_of(self.aimet, self.network))
        for name, one in self._quantizers.items():
            if one.is_encoding_frozen():
                other._quantizers[name].freeze_encodings()
        return other

    def save(self, path: Path) -> None:
        """Write weights and encodings."""
        save_tensors(path, note_of(self.network) | state_of(self.aimet, self.network))

    def load(self, path: Path) -> None:
        """Put in what `save` wrote."""
        set_state(self.aimet, load_tensors(path))

    def encodings(self) -> dict[str, Any]:
        """Give the encodings, by names such as those of a network of torch."""
        names = self._names.as_of_torch()
        found = {
            names[key]: one.export_encodings("1.0.0") for key, one in sorted(self._quantizers.items()) if one.enabled
        }
        return {name: encoding for name, encoding in sorted(found.items()) if encoding}

    def layer_sqnr(self, network: OnnxNetwork, split: Samples) -> list[LayerSqnr]:
        """Compare nodes' outputs."""
        rows = node_rows(network, self.aimet, split)
        found = [LayerSqnr(row["layer"], row["kind"], row["sqnr_db"]) for row in rows]
        return sorted(found, key=lambda layer: layer.sqnr_db)

    def layer_rows(self, network: OnnxNetwork, split: Samples) -> list[dict[str, Any]]:
        """Give a row a node."""
        return node_rows(network, self.aimet, split.first(SAMPLES))

    def leave_evidence(self, folder: Path) -> str:
        """Leave the graph."""
        with replacing(folder / "model.onnx") as temporary:
            onnx.save(self.network.proto, str(temporary))
        return "aimet-onnx"

    def export_qdq(
        self, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], path: Path, int32_bias: bool = False
    ) -> None:
        """Write the QDQ graph."""
        proto = self.aimet.to_onnx_qdq(export_int32_bias=int32_bias, prequantize_constants=True)
        with replacing(path) as temporary:
            onnx.save(proto, str(temporary))
        keep_integer(path)

    def export_encodings(self, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], folder: Path) -> None:
        """Write the graph with the sim's weights, and the encodings."""
        folder.mkdir(parents=True, exist_ok=True)
        self.aimet.export(str(folder), "model", export_model=False, encoding_version="1.0.0")
        plain = copy.deepcopy(self.network)
        plain.put(weights_of(self.aimet, self.network))
        with replacing(folder / "model.onnx") as temporary:
            onnx.save(plain.proto, str(temporary))

    @contextmanager
    def _without(self, names: Collection[str]) -> Iterator[None]:
        """Take quantizers out, for a while; one that several tensors share stays for those that are not named."""
        kept = {id(one) for name, one in self._quantizers.items() if name not in names}
        off = [one for one in self._quantizers.values() if one.enabled and id(one) not in kept]
        for one in off:
            one.enabled = False
        try:
            yield
        finally:
            for one in off:
                one.enabled = True


class _SimNetwork(nn.Module):
    """Runs a sim a sample at a time, with the outputs named as the network's."""

    def __init__(self, sim: Any, network: OnnxNetwork) -> None:
        super().__init__()
        self._sim, self._names = sim, (network.inputs, network.outputs)
        keep_output_names(self, network.outputs)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return run_samples(self._sim.session.run, *self._names, inputs)

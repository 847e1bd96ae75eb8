"""QuantSim of a network that came as ONNX, by aimet-onnx: what simulation.py has for a network of torch."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.errors import RefusedError
from bitladder.network.evaluate import NoiseSums
from bitladder.network.model import keep_output_names
from bitladder.precision import Precision
from bitladder.quantize.prepare.onnx_prepare import quiet
from bitladder.quantize.prepare.task_quantization import task_quantization_of
from bitladder.quantize.sim.joined import part_joined_onnx
from bitladder.running.files import load_tensors, replacing, save_tensors
from bitladder.tasks.onnx_model import OnnxNetwork, run_samples
from bitladder.tasks.samples import Samples

if TYPE_CHECKING:
    from aimet_onnx.quantsim import QuantizationSimModel

__all__ = ["OnnxSim"]

RANGE_SETTINGS = {"min-max": "min_max", "sqnr": "tf_enhanced"}  # ours, in aimet-onnx's words

MATRIX_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

MOST_WIDER = 16  # 4 bits

FIELDS = ("min", "max", "delta", "offset", "bw")  # of an encoding


class OnnxSim:
    """A QuantSim of a prepared network. `model` runs it as a torch module would be run."""

    def __init__(self, network: OnnxNetwork, precision: Precision, config: str, range_setting: str) -> None:
        quiet()
        from aimet_onnx.quantsim import QuantizationSimModel

        quantization = task_quantization_of(network)
        self.network = network
        self._constants = {tensor.name for tensor in network.proto.graph.initializer}
        self._folder = TemporaryDirectory()  # aimet-onnx's own is not cleared away at the end of the process
        try:
            self._sim: QuantizationSimModel = QuantizationSimModel(
                copy.deepcopy(network.proto),
                param_type=f"int{precision.weights}",
                activation_type=f"int{precision.activations}",
                quant_scheme=RANGE_SETTINGS[range_setting],
                config_file=quantization.config or config,
                path=self._folder.name,
                session_options_kwargs={"intra_op_num_threads": torch.get_num_threads()},
            )
        except Exception as error:  # aimet-onnx raises many kinds
            reason = " ".join(str(error).split())[:300]
            raise RefusedError(f"task: aimet-onnx builds no QuantSim of {network.source}: {reason}") from None
        self._quantizers: dict[str, Any] = self._sim.qc_quantize_op_dict
        self._leave(quantization.exclude)
        self._check_weights(quantization.exclude)
        part_joined_onnx(self._sim)
        self.model = _SimNetwork(self._sim, network)

    def calibrate(self, split: Samples) -> None:
        """Find the quantizers' ranges from samples. Raise RefusedError where one is left without."""
        rows = tqdm(_rows(split), desc="calibrate", unit="sample", total=len(split), leave=False)
        self._sim.compute_encodings(iter(rows))
        self._widen_padded()
        names = self._names()
        empty = [names[key] for key, one in self._quantizers.items() if one.enabled and not one.is_initialized()]
        if empty:
            raise RefusedError(
                f"task: calibration left no range in {', '.join(empty[:5])}; no sample runs through them"
            )

    def save(self, path: Path) -> None:
        """Write weights and encodings as safetensors."""
        tensors = {f"weights.{name}": values for name, values in self.network.state_dict().items()}
        for name, one in self._quantizers.items():
            if one.enabled and (found := one.get_encodings()):
                rows = [[getattr(encoding, field) for field in FIELDS] for encoding in found]
                tensors[f"encodings.{name}"] = torch.tensor(rows, dtype=torch.float64)
        save_tensors(path, tensors)

    def load(self, path: Path) -> None:
        """Put in what `save` wrote of a sim that was built with the same arguments."""
        from aimet_onnx.common import libpymo

        tensors = load_tensors(path)
        for name, one in self._quantizers.items():
            rows = tensors.get(f"encodings.{name}")
            one.enabled = rows is not None
            if rows is None:
                continue
            encodings = []
            for row in rows.tolist():
                encoding = libpymo.TfEncoding()
                for field, value in zip(FIELDS, row, strict=True):
                    setattr(encoding, field, int(value) if field == "bw" else value)
                encodings.append(encoding)
            one.set_bitwidth(encodings[0].bw)
            one.load_encodings(encodings)

    def encodings(self) -> dict[str, Any]:
        """Give every quantizer's encoding by layer, named as those of a network of torch are."""
        names = self._names()
        found = {
            names[key]: one.export_encodings("1.0.0") for key, one in sorted(self._quantizers.items()) if one.enabled
        }
        return {name: encoding for name, encoding in sorted(found.items()) if encoding}

    def export_qdq(self, path: Path, int32_bias: bool) -> None:
        """Write the sim as ONNX with QuantizeLinear and DequantizeLinear nodes, for a batch of one."""
        proto = self._sim.to_onnx_qdq(export_int32_bias=int32_bias, prequantize_constants=True)
        with replacing(path) as temporary:
            onnx.save(proto, str(temporary))

    def export_encodings(self, folder: Path) -> None:
        """Write the float graph and its encodings beside it, as Qualcomm's converters take them."""
        folder.mkdir(parents=True, exist_ok=True)
        self._sim.export(str(folder), "model", export_model=False, encoding_version="1.0.0")
        with replacing(folder / "model.onnx") as temporary:
            onnx.save(self.network.proto, str(temporary))

    def layers(self, split: Samples) -> list[dict[str, Any]]:
        """Give a row a node that makes a floating-point tensor, in the graph's order.

        Every sample of the split is run; SQNR is against FP32. The columns are those of metrics/layers/*.csv.
        """
        nodes = [node for node in self.network.proto.graph.node if node.op_type != "Constant"]
        after = {node.input[0]: node.output[0] for node in self._sim.model.nodes() if node.op_type == "QcQuantizeOp"}
        # what aimet-onnx folded away is in the float graph only
        left = {name for node in self._sim.model.nodes() for name in node.output}
        names = [node.output[0] for node in nodes if node.output[0] in left]
        found = _compare_tensors(
            _TensorReader(self.network.proto, {name: name for name in names}),
            _TensorReader(self._sim.model.model, {name: after.get(name, name) for name in names}),
            split,
        )
        rows = []
        for node in nodes:
            name = node.output[0]
            if name in found:
                weights = self._quantizers.get(node.input[1]) if self._has_weights(node) else None
                rows.append(
                    {"layer": node.name, "kind": node.op_type, "sqnr_db": found[name]}
                    | _range("weight", "weights_bits", weights)
                    | _range("output", "outputs_bits", self._quantizers.get(name))
                )
        return rows

    def _leave(self, exclude: Sequence[str]) -> None:
        """Take the quantizers from excluded nodes, and from the bounds of clips, which the NPU wants as constants."""
        for node in self.network.proto.graph.node:
            excluded = node.name in exclude
            constants = [name for name in node.input if name in self._constants]
            left = [*constants, *node.output] if excluded else constants if node.op_type == "Clip" else []
            for name in left:
                if name in self._quantizers:
                    self._quantizers[name].enabled = False

    def _widen_padded(self) -> None:
        """Bring what a Pad pads with into the range of what it pads: the two, and its output, have one scale."""
        graph = self.network.proto.graph
        makers = {output: node for node in graph.node for output in node.output}
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type != "Pad" or len(node.input) < 3 or node.input[2] not in values:
                continue
            name, value = node.input[0], values[node.input[2]].item()
            while name in makers and not self._has_range(name):  # through what only moves values
                name = makers[name].input[0]
            if self._has_range(name):
                quantizer = self._quantizers[name]
                quantizer.load_encodings([_widened(one, value) for one in quantizer.get_encodings()])

    def _has_range(self, name: str) -> bool:
        return name in self._quantizers and self._quantizers[name].enabled and self._quantizers[name].is_initialized()

    def _has_weights(self, node: onnx.NodeProto) -> bool:
        return node.op_type in MATRIX_OPS and node.input[1] in self._constants

    def _check_weights(self, exclude: Sequence[str]) -> None:
        bare = [
            node.name
            for node in self.network.proto.graph.node
            if self._has_weights(node) and node.name not in exclude
            if not (one := self._quantizers.get(node.input[1])) or not one.enabled
        ]
        if bare:
            raise RefusedError(
                f"task: the QuantSim has no quantizers in {', '.join(bare[:5])} (its weight); say that they stay in"
                " float by Quantization.exclude"
            )

    def _names(self) -> dict[str, str]:
        names: dict[str, str] = {name: f"{name}.input_quantizers.0" for name in self.network.inputs}
        for node in self.network.proto.graph.node:
            parts = ("weight", "bias")
            for index, name in enumerate(node.input[1:3]):
                names.setdefault(name, f"{node.name}.param_quantizers.{parts[index]}")
            for index, name in enumerate(node.output):
                names[name] = f"{node.name}.output_quantizers.{index}"
        return {name: names.get(name, name) for name in self._quantizers}


class _SimNetwork(nn.Module):
    """Runs a sim a sample at a time, with the outputs named as the network's."""

    def __init__(self, sim: "QuantizationSimModel", network: OnnxNetwork) -> None:
        super().__init__()
        self._sim, self._names = sim, (network.inputs, network.outputs)
        keep_output_names(self, network.outputs)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return run_samples(self._sim.session.run, *self._names, inputs)


class _TensorReader:
    """Runs a graph a sample at a time and gives its inner tensors; `wanted` says what each is called there."""

    def __init__(self, proto: onnx.ModelProto, wanted: dict[str, str]) -> None:
        from aimet_onnx.utils import OrtInferenceSession, register_aimet_custom_ops

        options = register_aimet_custom_ops(onnxruntime.SessionOptions())
        options.intra_op_num_threads = torch.get_num_threads()  # sums change their last bits with it
        proto = copy.deepcopy(proto)
        new = set(wanted.values()) - {value.name for value in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(new))
        self._session = OrtInferenceSession(proto, ["CPUExecutionProvider"], options)
        kinds = {output.name: output.type for output in self._session.get_outputs()}
        self._wanted = {name: inner for name, inner in wanted.items() if kinds[inner] == "tensor(float)"}

    def __call__(self, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = self._session.run(list(self._wanted.values()), sample)
        return dict(zip(self._wanted, tensors, strict=True))


def _compare_tensors(float_graph: _TensorReader, simulated: _TensorReader, split: Samples) -> dict[str, float]:
    """Give the SQNR of each tensor over a split. The tensors of one sample are held at a time: all do not fit."""
    sums = NoiseSums()
    for row in _rows(split):
        pair = (
            {name: torch.from_numpy(values) for name, values in graph(row).items()}
            for graph in (float_graph, simulated)
        )
        sums.add(*pair)
    return sums.by_name()


def _rows(samples: Samples) -> Iterator[dict[str, np.ndarray]]:
    """Give each sample as ONNX Runtime takes it: a batch of one, by name."""
    for inputs, _ in samples.batches(1):
        yield {name: values.numpy() for name, values in inputs.items()}


def _widened(encoding: Any, value: float) -> Any:
    """Give an encoding whose range holds a value too; as it is, where that would leave few steps for the others.

    So is a large negative value before a MaxPool, which clipping serves as well.
    """
    from aimet_onnx.common import libpymo

    low, high = min(encoding.min, value), max(encoding.max, value)
    if (low, high) == (encoding.min, encoding.max) or high - low > MOST_WIDER * (encoding.max - encoding.min):
        return encoding
    widened, steps = libpymo.TfEncoding(), 2**encoding.bw - 1
    widened.bw, widened.delta = encoding.bw, (high - low) / steps
    widened.offset = round(low / widened.delta)
    widened.min, widened.max = widened.delta * widened.offset, widened.delta * (widened.offset + steps)
    return widened


def _range(what: str, bits: str, quantizer: Any) -> dict[str, Any]:
    found = quantizer.get_encodings() if quantizer is not None and quantizer.enabled else None
    if not found:
        return {bits: None, f"{what}_min": None, f"{what}_max": None}
    return {
        bits: quantizer.bitwidth,
        f"{what}_min": min(encoding.min for encoding in found),
        f"{what}_max": max(encoding.max for encoding in found),
    }

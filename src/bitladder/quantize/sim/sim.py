"""What a QuantSim is to the pipeline, by aimet-torch or, where the network came as ONNX, by aimet-onnx."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from bitladder.precision import Precision
from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.layers import Cost, LayerSqnr, What
from bitladder.quantize.sim.onnx_sim import OnnxSim
from bitladder.quantize.sim.torch_sim import TorchSim
from bitladder.records import BlockWeights
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.samples import Samples

__all__ = ["Sim", "build_sim", "sim_type"]


class Sim(Protocol):
    """A simulation of a prepared network: `network` is that in float, `aimet` AIMET's QuantSim of it."""

    network: Any
    aimet: Any

    @property
    def model(self) -> nn.Module:
        """The simulated network, to be run as the float one is."""

    @staticmethod
    def swap_relu6(network: Any) -> bool:
        """Put ReLU in the place of ReLU6 in a float network; whether there was one."""

    @staticmethod
    def equalize(network: Any, sample: tuple[Tensor, ...]) -> None:
        """Move scales between neighbouring layers of a float network, in place (arXiv:1906.04721)."""

    def calibrate(self, samples: Samples, batch_size: int) -> None:
        """Find the quantizers' ranges from samples. Raise RefusedError where a layer is left without one."""

    def set_layers(self, layers: Mapping[str, Precision]) -> None:
        """Give some layers bits of their own, before calibration. Raise UserError where there is no such layer."""

    def set_blocks(self, size: int | None) -> None:
        """Give weights a scale for each `size` input channels, before calibration; None: leave them per channel.

        Raises RefusedError where no layer takes that.
        """

    def block_weights(self) -> BlockWeights | None:
        """Name the layers with such weights, and the others; None where there are none."""

    def layers(self, what: What) -> dict[str, str]:
        """Name the layers that quantize a weight, or an output, in the network's order, each with its kind."""

    def ending(self, name: str) -> str:
        """Name the ReLU or ReLU6 that alone reads a layer's output and so holds its bits; the layer, if none does."""

    def isolated(self, names: Collection[str], what: What) -> AbstractContextManager[None]:
        """Leave only these layers' quantizers of weights or of activations, for a while."""

    def costs(self) -> dict[str, Cost]:
        """Give what each layer whose weights are quantized has of them, and how often it multiplies by them."""

    def batches(self, samples: Samples, size: int) -> Batches:
        """Give samples in the batches in which `as_modules` takes them."""

    def as_modules(self, activations: bool = True) -> AbstractContextManager[tuple[nn.Module, nn.Module]]:
        """Give the float network and the simulated one, whose layers are AIMET's quantized modules of torch.

        Techniques change weights, biases and weight ranges there; at the end the sim has them.

        Args:
            activations: whether those are quantized meanwhile.

        """

    def followers(self, network: nn.Module) -> Mapping[nn.Module, nn.Module | None]:
        """Give the activation that comes after each layer of the float network that `as_modules` gave."""

    def search_ranges(self, batches: Batches, candidates: int, folder: Path) -> None:
        """Find weight ranges, layer by layer, by SeqMSE as AIMET has it."""

    def put_back_weights(self, names: Iterable[str]) -> None:
        """Give layers their float weights, with ranges to be found anew."""

    def put_back_biases(self) -> None:
        """Give all layers their float biases."""

    def copy(self) -> "Sim":
        """Give a sim of its own with the same weights, bits and ranges."""

    def save(self, path: Path) -> None:
        """Write weights and quantizers as safetensors."""

    def load(self, path: Path) -> None:
        """Put in what `save` wrote of a sim built with the same arguments; stored bit-widths win over the sim's."""

    def encodings(self) -> dict[str, Any]:
        """Give every quantizer's encoding by the name it has in the network, scales in full precision."""

    def layer_sqnr(self, network: Any, split: Samples) -> list[LayerSqnr]:
        """Compare every layer's output with the float network's on the same samples; worst first."""

    def layer_rows(self, network: Any, split: Samples) -> list[dict[str, Any]]:
        """Give a row a layer, in the network's order, as metrics/layers/*.csv holds them; the first samples are run."""

    def leave_evidence(self, folder: Path) -> str:
        """Leave what shows how far this is from FP32, beside samples and weights; name AIMET's package for it."""

    def export_qdq(
        self, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], path: Path, int32_bias: bool = False
    ) -> None:
        """Write ONNX with QuantizeLinear and DequantizeLinear nodes, for a batch of one.

        Biases stay in float: AIMET's default, int32, gives a bias whose convolution has no quantizer of its own at the
        input a scale that runtimes do not expect, and the NPU's outputs are then wrong without a message.

        Args:
            sample: the first sample, as the network takes it.
            names: of the graph's inputs and outputs; a network that came as ONNX keeps its own.
            path: of the .onnx file.
            int32_bias: AIMET's default; only for showing what it does.

        """

    def export_encodings(self, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], folder: Path) -> None:
        """Write the plain FP32 graph and AIMET's encodings beside it, as Qualcomm's converters take them."""


def sim_type(network: nn.Module) -> type[Sim]:
    """Give the kind of sim that a network has."""
    return OnnxSim if isinstance(network, OnnxNetwork) else TorchSim


def build_sim(
    network: nn.Module,
    sample: tuple[Tensor, ...],
    precision: Precision,
    config: str,
    range_setting: str = "min-max",
) -> Sim:
    """Put quantizers into a prepared network, as the HTP config of a Hexagon generation or the task's own asks.

    Raises RefusedError that names the layers which AIMET does not know how to quantize.
    """
    build: Any = sim_type(network)
    return build(network, sample, precision, config, range_setting)

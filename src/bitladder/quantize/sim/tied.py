"""Inputs and outputs that share an encoding, such as a KV cache: what one inference gives, the next one takes.

They share one quantizer, so its range is that of both, and stays one through techniques, QAT and export. What comes
back in then lies on the input's own steps, and is rounded once.
"""

import inspect
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from aimet_torch.nn import QuantizationMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitladder.errors import UserError
from bitladder.network.model import output_names
from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.missing import computing_layers
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.outputs import name_outputs

if TYPE_CHECKING:
    from aimet_onnx.quantsim import QuantizationSimModel as OnnxQuantizationSimModel

__all__ = ["tie_onnx", "tie_torch"]

Pairs = Sequence[tuple[str, str]]


def tie_torch(model: nn.Module, network: nn.Module, sample: tuple[Tensor, ...], pairs: Pairs) -> None:
    """Give each input and its output one quantizer, before calibration.

    Args:
        model: the simulated network.
        network: the one in float.
        sample: a batch of one.
        pairs: of an input, as `forward` calls it, and an output.

    """
    if not pairs:
        return
    layers: dict[str, Any] = dict(computing_layers(model))
    quantized = {name: one for name, one in layers.items() if isinstance(one, QuantizationMixin)}
    run = _Run(network, sample, layers)
    for source, output in pairs:
        read = [
            quantized[name].input_quantizers[index]
            for name, index in run.readers(source)
            if name in quantized and index < len(quantized[name].input_quantizers)
        ]
        # behind the last quantizer come layers that only move values
        made = [quantized[name].output_quantizers[0] for name in takewhile(quantized.get, run.makers(output))]
        shared = _shared(source, output, [one for one in read if one], [one for one in made if one][:1])
        for layer in quantized.values():
            for quantizers in (layer.input_quantizers, layer.output_quantizers):
                for index, one in enumerate(quantizers):
                    if one is not None and any(one is other for other in shared):
                        quantizers[index] = shared[0]


def tie_onnx(sim: "OnnxQuantizationSimModel", network: OnnxNetwork, pairs: Pairs, exclude: Sequence[str]) -> None:
    """Do the same in a sim of aimet-onnx, in which some nodes stay in float."""
    quantizers: dict[str, Any] = sim.qc_quantize_op_dict
    makers = {name: node for node in network.proto.graph.node for name in node.output if node.name not in exclude}

    def in_use(name: str) -> list[Any]:
        return [quantizers[name]] if name in quantizers and quantizers[name].enabled else []

    for source, output in pairs:
        name = output
        while not in_use(name) and name in makers:
            name = makers[name].input[0]
        shared = _shared(source, output, in_use(source), in_use(name))
        same = [name for name, one in quantizers.items() if any(one is other for other in shared)]
        sim._set_quantizers(dict.fromkeys(same, shared[0]), rebuild_session=True)


def _shared(source: str, output: str, read: list[Any], made: list[Any]) -> list[Any]:
    """Give the quantizers of both, that which the two will share first: a symmetric one, where an op asks for it.

    Raises UserError where one has none.
    """
    for what, found in ((f"the input {source!r}", read), (f"the output {output!r}", made)):
        if not found:
            raise UserError(f"task: Quantization.tied: {what} has no quantizer: is it an integer, or in float?")
    return sorted([*made, *read], key=_is_symmetric, reverse=True)


def _is_symmetric(quantizer: Any) -> bool:
    return bool(quantizer.symmetric if isinstance(quantizer, nn.Module) else quantizer.use_symmetric_encodings)


class _Call(NamedTuple):
    """A layer's run: the tensors that it was given, by index, and those that it made."""

    layer: str
    read: dict[int, int]
    made: set[int]


class _Run(TorchFunctionMode):
    """Which layers read and make what, of one run. What a call outside of layers gives counts as what it was given."""

    def __init__(self, network: nn.Module, sample: tuple[Tensor, ...], layers: Collection[str]) -> None:
        super().__init__()
        self._calls: list[_Call] = []
        self._moved: dict[int, int] = {}  # by tensor: what it was before it was reshaped
        self._held: list[Tensor] = []  # or their ids would soon be others'
        self._inside = 0  # of layers

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._inside += 1

        def leave(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...], returned: Any) -> None:
                self._inside -= 1
                read = {index: self._id(one) for index, one in enumerate(inputs) if isinstance(one, Tensor)}
                self._calls.append(_Call(name, read, {self._id(one) for one in _tensors(returned)}))

            return hook

        modules = {name: network.get_submodule(name) for name in layers}
        hooks = [one.register_forward_pre_hook(enter) for one in modules.values()]
        hooks += [one.register_forward_hook(leave(name)) for name, one in modules.items()]
        # the sample draws no random number that later ones would miss
        with hooked(hooks), torch.no_grad(), torch.random.fork_rng(devices=[]), self:
            outputs = name_outputs(network(*sample), output_names(network))
        self._inputs = dict(zip(inspect.signature(network.forward).parameters, map(self._id, sample), strict=False))
        self._outputs = {name: self._id(values) for name, values in outputs.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what a call gives of which tensor."""
        result = func(*args, **(kwargs or {}))
        if not self._inside and (given := _tensors(args)):
            self._moved |= {self._id(one): self._id(given[0]) for one in _tensors(result) if one is not given[0]}
        return result

    def readers(self, source: str) -> Iterator[tuple[str, int]]:
        """Give the layers that read an input, each with which of its inputs that is."""
        for call in self._calls:
            yield from ((call.layer, index) for index, one in call.read.items() if one == self._inputs[source])

    def makers(self, output: str) -> Iterator[str]:
        """Give the layer that makes an output, that which makes what this reads first, and so on."""
        wanted: int | None = self._outputs[output]
        for call in reversed(self._calls):
            if wanted in call.made:
                yield call.layer
                wanted = next(iter(call.read.values()), None)

    def _id(self, values: Tensor) -> int:
        self._held.append(values)
        return self._moved.get(id(values), id(values))


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in (values if isinstance(values, list | tuple) else (values,)) if isinstance(one, Tensor)]

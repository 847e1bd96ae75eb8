"""Quantizers for parameters and buffers that are operands rather than a layer's own weights: `x + self.position`.

AIMET takes them for quantized already, so they, and the ops that read them, would run in float.
"""

from typing import Any

import torch
from aimet_torch.nn import QuantizationMixin, QuantizedEmbedding
from aimet_torch.nn.modules import custom
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.precision import Precision
from bitladder.quantize.sim.hooks import hooked

__all__ = ["quantize_embeddings", "quantize_operands"]

PRODUCTS = (custom.MatMul, custom.Bmm)

ELEMENTWISE = (
    custom.Add,
    custom.Subtract,
    custom.Multiply,
    custom.Divide,
    custom.Maximum,
    custom.Minimum,
    custom.Pow,
    custom.Where,
)

LEAST = 8
"""Bits of an embedding, and of a matrix that is an operand: of fewer the NPU takes neither."""


def quantize_operands(
    sim: QuantizationSimModel, model: nn.Module, sample: tuple[Tensor, ...], precision: Precision
) -> None:
    """Give constant operands quantizers of their own: with the weights' bits in a product, else the activations'.

    Args:
        sim: as it was built.
        model: the network that it was built from.
        sample: a batch of one.
        precision: of the sim.

    """
    for name, index in _constant_operands(model, sample):
        layer: Any = sim.model.get_submodule(name)
        if not isinstance(layer, QuantizationMixin) or index >= len(layer.input_quantizers):
            continue
        if layer.input_quantizers[index] is None:
            product = isinstance(layer, PRODUCTS) and index == 1
            bits = max(precision.weights, LEAST) if product else precision.activations
            quantizer = QuantizeDequantize((), bits, product)
            layer.input_quantizers[index] = quantizer


def quantize_embeddings(sim: QuantizationSimModel, precision: Precision) -> None:
    """Give embeddings the weights' bits, where AIMET gives the activations'; what is looked up has the latter then.

    They are unsigned, as activations are: the NPU adds nothing of one kind to what is of the other.
    """
    bits = max(precision.weights, LEAST)
    for layer in sim.model.modules():
        if not isinstance(layer, QuantizedEmbedding) or layer.param_quantizers["weight"] is None:
            continue
        weight: Any = layer.param_quantizers["weight"]
        weight.bitwidth, weight.symmetric, weight.signed = bits, False, False
        if bits != precision.activations and layer.output_quantizers[0] is None:
            layer.output_quantizers[0] = QuantizeDequantize((), precision.activations, False)


def _constant_operands(model: nn.Module, sample: tuple[Tensor, ...]) -> list[tuple[str, int]]:
    """Name the modules of two operands that are given a parameter or buffer, and which operand it is."""
    own = {_place(value) for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()}
    found: dict[tuple[str, int], None] = {}

    def listen(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            for index, value in enumerate(inputs):
                if isinstance(value, Tensor) and value.is_floating_point() and _place(value) in own:
                    found[name, index] = None

        return hook

    modules = [(name, one) for name, one in model.named_modules() if isinstance(one, (*PRODUCTS, *ELEMENTWISE))]
    hooks = (one.register_forward_pre_hook(listen(name)) for name, one in modules)
    # the sample draws no random number that later ones would miss
    with hooked(hooks), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model(*sample)
    return list(found)


def _place(value: Tensor) -> int:
    """Tell tensors by their memory: a part of a parameter, or one in another shape, is the same."""
    return value.untyped_storage().data_ptr()

"""What one layer's quantizers do on their own: all others taken out of a network."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext

from aimet_torch.nn import QuantizationMixin
from aimet_torch.utils import remove_activation_quantizers, remove_all_quantizers, remove_param_quantizers
from torch import nn

from bitladder.quantize.sim.layers import What

__all__ = ["isolated", "quantized_layers"]


def quantized_layers(model: nn.Module, what: What) -> dict[str, QuantizationMixin]:
    """Give the layers of a simulated network that quantize a weight, or an output, by name, in its order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizationMixin) and _has(module, what)
    }


@contextmanager
def isolated(model: nn.Module, names: Collection[str], what: What) -> Iterator[None]:
    """Leave only these layers' quantizers of weights or of activations in a simulated network, for a while."""
    layers = [model.get_submodule(name) for name in names]
    others = [
        module
        for module in model.modules()
        if isinstance(module, QuantizationMixin) and all(module is not layer for layer in layers)
    ]
    remove = remove_activation_quantizers if what == "weight" else remove_param_quantizers
    with remove_all_quantizers(others) if others else nullcontext(), remove(layers):
        yield


def _has(module: QuantizationMixin, what: What) -> bool:
    if what == "weight":
        return dict(module.param_quantizers).get("weight") is not None
    return any(quantizer is not None for quantizer in (*module.output_quantizers, *module.input_quantizers))

"""What one layer's quantizers do on their own: all others taken out of a sim."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Literal

from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.utils import remove_activation_quantizers, remove_all_quantizers, remove_param_quantizers

__all__ = ["What", "isolated", "quantized_layers"]

What = Literal["weight", "activation"]


def quantized_layers(sim: QuantizationSimModel, what: What) -> dict[str, QuantizationMixin]:
    """Give the layers of a sim that quantize a weight, or an output, by name, in the network's order."""
    return {
        name: module
        for name, module in sim.model.named_modules()
        if isinstance(module, QuantizationMixin) and _has(module, what)
    }


@contextmanager
def isolated(sim: QuantizationSimModel, layers: Mapping[str, QuantizationMixin], what: What) -> Iterator[None]:
    """Leave only these layers' quantizers of weights or of activations in a sim, for a while."""
    others = [
        module
        for module in sim.model.modules()
        if isinstance(module, QuantizationMixin) and all(module is not layer for layer in layers.values())
    ]
    remove = remove_activation_quantizers if what == "weight" else remove_param_quantizers
    with remove_all_quantizers(others) if others else nullcontext(), remove(list(layers.values())):
        yield


def _has(module: QuantizationMixin, what: What) -> bool:
    if what == "weight":
        return dict(module.param_quantizers).get("weight") is not None
    return any(quantizer is not None for quantizer in (*module.output_quantizers, *module.input_quantizers))

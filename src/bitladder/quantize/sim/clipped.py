"""Layers whose output only a ReLU or ReLU6 reads."""

from typing import Any

from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from torch import nn

__all__ = ["clip_to_activations", "clipped_layers", "read_by_relus"]


def clip_to_activations(sim: QuantizationSimModel) -> None:
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
    return {
        layer: activation
        for layer, activation in read_by_relus(sim).items()
        if _has_range(modules.get(layer)) and _has_range(modules[activation])
    }


def read_by_relus(sim: QuantizationSimModel) -> dict[str, str]:
    """Name the layers that feed only a ReLU or ReLU6, each with that."""
    modules = dict(sim.model.named_modules())
    found = {}
    for operation in sim.connected_graph.get_all_ops().values():
        readers = operation.output_ops or []
        if len(readers) != 1:
            continue
        names = [one.dotted_name.partition(".")[2] for one in (operation, readers[0])]  # first: the network's class
        if isinstance(modules.get(names[1]), nn.ReLU | nn.ReLU6):
            found[names[0]] = names[1]
    return found


def _has_range(module: nn.Module | None) -> bool:
    quantizer: Any = module.output_quantizers[0] if isinstance(module, QuantizationMixin) else None
    return quantizer is not None and quantizer.is_initialized()

"""Weights with a scale for each block of input channels, by AIMET's blockwise quantizers."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from aimet_torch.quantization.affine import QuantizeDequantize
from torch import Tensor, nn

from bitladder.errors import RefusedError
from bitladder.quantize.sim.isolated import quantized_layers
from bitladder.records import BlockWeights

__all__ = [
    "block_weights",
    "check_divided",
    "divided",
    "has_blocks",
    "load_state",
    "named",
    "set_blocks",
    "shapes",
    "with_shape",
]

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def set_blocks(model: nn.Module, size: int) -> None:
    """Give weights a scale for each `size` input channels, where a layer takes that, before calibration.

    Those are Linear and convolutions of 1 x 1 with whole blocks of input channels, two at least: the NPU takes no other
    kernel so, and gives wrong outputs where a rest is left beside whole blocks. All others stay per channel.

    Raises RefusedError where no layer does.
    """
    layers: Any = [one for one in quantized_layers(model, "weight").values() if _takes(one, size)]
    for layer in layers:
        _divide(layer, size)
    check_divided(layers, size)


def load_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put a stored state into a network of the same layers, whose weights come to have the blocks that it has."""
    layers: Mapping[str, Any] = quantized_layers(model, "weight")
    for name, layer in layers.items():
        stored: Tensor | None = state.get(f"{name}.param_quantizers.weight.min")
        if stored is not None and stored.shape != layer.param_quantizers["weight"].shape:
            _divide(layer, layer.weight.shape[1] // stored.shape[1])
    model.load_state_dict(state)
    for quantizer in (layer.param_quantizers["weight"] for layer in layers.values()):
        if quantizer.block_size:  # AIMET leaves tensors there
            quantizer.block_size = tuple(map(int, quantizer.block_size))


def block_weights(model: nn.Module) -> BlockWeights | None:
    """Name the layers with blocks, and those whose weights are quantized per channel; None where none has any."""
    layers: Mapping[str, Any] = quantized_layers(model, "weight")
    names = [name for name, layer in layers.items() if isinstance(layer, MATRICES)]  # no norms, no embeddings
    return named({name: divided(layers[name].param_quantizers["weight"]) for name in names})


def named(sizes: Mapping[str, int]) -> BlockWeights | None:
    """Name layers by their block, 0 of one that is per channel; None where all are."""
    own = tuple(name for name, size in sizes.items() if size)
    others = tuple(name for name, size in sizes.items() if not size)
    return BlockWeights(size=max(sizes.values()), layers=own, per_channel=others) if own else None


def check_divided(layers: Sized, size: int) -> None:
    """Refuse a block that no layer takes."""
    if not len(layers):
        raise RefusedError(
            f"ladder: weights_block: no Linear and no convolution of 1 x 1 has a multiple of {size} input channels, at"
            f" least {2 * size}; choose a smaller block, or null"
        )


def has_blocks(channels: int, size: int) -> bool:
    """Tell whether so many input channels are whole blocks, and more than one."""
    return channels > size and channels % size == 0


def shapes(weight: Sequence[int], size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the shape of the scales of weights of this shape, and that of a block."""
    outputs, inputs, *ones = weight
    return (outputs, inputs // size, *ones), (1, size, *ones)


def divided(quantizer: Any) -> int:
    """Give the input channels that share a scale, of a weight's quantizer; 0 where all do."""
    return int(quantizer.block_size[1]) if quantizer.block_size else 0


def with_shape(encoding: Any) -> Any:
    """Tell an encoding the shape of its weights, without which AIMET does not say which axis has blocks."""
    if encoding.block_size:
        encoding._hint_input_shape(
            tuple(count * size for count, size in zip(encoding.scale.shape, encoding.block_size, strict=True))
        )
    return encoding


def _takes(layer: Any, size: int) -> bool:
    pointwise = isinstance(layer, nn.Conv2d) and set(layer.kernel_size) == {1} and layer.groups == 1
    return (isinstance(layer, nn.Linear) or pointwise) and has_blocks(layer.weight.shape[1], size)


def _divide(layer: Any, size: int) -> None:
    own, (shape, block) = layer.param_quantizers["weight"], shapes(layer.weight.shape, size)
    layer.param_quantizers["weight"] = QuantizeDequantize(
        shape, own.qmin, own.qmax, own.symmetric, type(own.encoding_analyzer)(shape, block), block
    ).to(layer.weight.device)

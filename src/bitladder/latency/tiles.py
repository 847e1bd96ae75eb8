"""The tiles in which the NPU stores activations: what does not fill them costs as if it did."""

import math
from collections.abc import Sequence

__all__ = ["LANES", "filled", "is_packed", "spatial", "tiled"]

LANES, ROWS, COLUMNS = 32, 8, 4
"""A tile, channels x height x width."""

PACKED = LANES // 8
"""Channels up to which an image is packed instead."""


def tiled(shape: tuple[int, ...], kind: str) -> int:
    """Give the elements of whole tiles: the second axis of images is the channels, the last one of all else.

    What is only moved is laid out in the way that fills its tiles better.
    """
    if len(shape) >= 4 and kind == "move":
        return min(_as_image(shape), _as_rows([length for length in shape if length > 1]))
    if len(shape) >= 4 and kind not in {"matmul", "linear", "softmax", "norm"}:
        return _as_image(shape)
    return _as_rows(shape) if len(shape) >= 3 else math.prod(shape)


def is_packed(shape: Sequence[int]) -> bool:
    """Whether it is an image of so few channels that it is streamed without tiles, and so never spills."""
    return len(shape) == 4 and shape[1] <= PACKED


def filled(count: int, tile: int = LANES) -> int:
    """Round up to whole tiles."""
    return math.ceil(count / tile) * tile


def spatial(shape: Sequence[int]) -> int:
    """Give the positions of an image in whole tiles."""
    height, width = shape[-2:]
    return filled(height * width, ROWS) if 1 in {height, width} else filled(height, ROWS) * filled(width, COLUMNS)


def _as_image(shape: Sequence[int]) -> int:
    return shape[0] * math.prod(shape[2:-2]) * filled(shape[1]) * spatial(shape)


def _as_rows(shape: Sequence[int]) -> int:
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-2]) * filled(shape[-2], ROWS) * filled(shape[-1])

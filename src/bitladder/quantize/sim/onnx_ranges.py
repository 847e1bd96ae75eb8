"""Ranges of aimet-onnx's quantizers: as tensors, from those of aimet-torch's, and widened."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

__all__ = ["channel_rows", "has_range", "ranges_between", "ranges_of", "set_ranges", "widen_padded"]

FIELDS = ("min", "max", "delta", "offset", "bw")  # of an encoding

MOST_WIDER = 16  # 4 bits


def has_range(quantizer: Any) -> bool:
    """Say whether a quantizer is in use and calibrated."""
    return quantizer is not None and quantizer.enabled and quantizer.is_initialized()


def ranges_of(quantizer: Any) -> Tensor | None:
    """Give a row of FIELDS for each channel; None where there is no range."""
    if not has_range(quantizer):
        return None
    rows = [[getattr(encoding, field) for field in FIELDS] for encoding in quantizer.get_encodings()]
    return torch.tensor(rows, dtype=torch.float64)


def set_ranges(quantizer: Any, rows: Tensor) -> None:
    """Put in what `ranges_of` gave, bits too."""
    encodings = [_encoding(dict(zip(FIELDS, row, strict=True))) for row in rows.tolist()]
    quantizer.set_bitwidth(encodings[0].bw)
    quantizer.load_encodings(encodings)


def widen_padded(graph: onnx.GraphProto, quantizers: dict[str, Any]) -> None:
    """Bring what a Pad pads with into the range of what it pads: the two, and its output, have one scale."""
    makers = {output: node for node in graph.node for output in node.output}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Pad" or len(node.input) < 3 or node.input[2] not in values:
            continue
        name, value = node.input[0], values[node.input[2]].item()
        while name in makers and not has_range(quantizers.get(name)):  # through what only moves values
            name = makers[name].input[0]
        quantizer = quantizers.get(name)
        if has_range(quantizer):
            assert quantizer is not None
            quantizer.load_encodings([_widened(one, value) for one in quantizer.get_encodings()])


def ranges_between(low: float, high: float, bits: int) -> Tensor:
    """Give the row of a range with an offset, between about these ends."""
    steps = 2**bits - 1
    delta = (high - low) / steps
    offset = round(low / delta)
    return torch.tensor([[delta * offset, delta * (offset + steps), delta, offset, bits]], dtype=torch.float64)


def channel_rows(low: Sequence[float], high: Sequence[float], bits: int) -> Tensor:
    """Give the rows of symmetric ranges, a channel each."""
    ends = np.stack([np.asarray(low, np.float64), np.asarray(high, np.float64)], 1)
    delta = (ends[:, 1] - ends[:, 0]) / (2**bits - 1)
    columns = [*ends.T, delta, np.rint(ends[:, 0] / delta), np.full(len(ends), bits)]
    return torch.from_numpy(np.stack(columns, 1))


def _encoding(values: dict[str, float]) -> Any:
    from aimet_onnx.common import libpymo

    encoding = libpymo.TfEncoding()
    for field, value in values.items():
        setattr(encoding, field, int(value) if field == "bw" else value)
    return encoding


def _widened(encoding: Any, value: float) -> Any:
    """Give an encoding whose range holds a value too; as it is, where that would leave few steps for the others.

    So is a large negative value before a MaxPool, which clipping serves as well.
    """
    low, high = min(encoding.min, value), max(encoding.max, value)
    if (low, high) == (encoding.min, encoding.max) or high - low > MOST_WIDER * (encoding.max - encoding.min):
        return encoding
    (row,) = ranges_between(low, high, encoding.bw).tolist()
    return _encoding(dict(zip(FIELDS, row, strict=True)))

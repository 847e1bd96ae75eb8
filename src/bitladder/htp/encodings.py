"""AIMET's encodings beside a float graph, brought to what repairs have made of the quantizers in the QDQ graph.

An encoding is of a tensor: what a repair changes of a tensor's quantizer, or adds where there was none, can be said so.
Another op, or a second quantizer on one tensor, cannot.
"""

import json
from pathlib import Path
from typing import Any

import onnx

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.running.files import write_text

__all__ = ["update_encodings"]


def update_encodings(folder: Path, before: onnx.ModelProto, after: onnx.ModelProto) -> int:
    """Change model.encodings in a folder that has the float graph as model.onnx; give how many encodings it changed."""
    path = folder / "model.encodings"
    plain = onnx.load(folder / "model.onnx", load_external_data=False)
    old, new = _quantizers(plain, before), _quantizers(plain, after)
    changed = {
        name: quantizer
        for name, quantizer in new.items()
        if quantizer is not None and ((was := old.get(name)) is None or not quantizer.same_as(was))
    }
    if not changed:
        return 0
    encodings = json.loads(path.read_text("utf-8"))
    constants = {tensor.name for tensor in plain.graph.initializer}
    for name, quantizer in changed.items():
        kind = "param_encodings" if name in constants else "activation_encodings"
        by_name = {one["name"]: one for one in encodings[kind]} | {name: _encoding(name, quantizer)}
        encodings[kind] = list(by_name.values())
    write_text(path, json.dumps(encodings, indent=2))  # as AIMET writes them
    return len(changed)


def _quantizers(plain: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, Quantizer | None]:
    """Give the quantizer of each tensor that nodes read which both graphs have; None where two nodes read it unlike."""
    graph = Graph(quantized)
    twins = {(node.name, node.op_type): node for node in graph.nodes}
    found: dict[str, Quantizer | None] = {}
    for node in plain.graph.node:
        twin = twins.get((node.name, node.op_type))
        for name, input_ in zip(node.input, twin.input if twin is not None else (), strict=False):
            maker = graph.maker(input_)
            quantizer = graph.find_quantizer(input_) if maker is not None else None
            if quantizer is not None and maker is not None and maker.op_type == "DequantizeLinear":
                first = found.setdefault(name, quantizer)
                if first is None or not first.same_as(quantizer):
                    found[name] = None
    return found


def _encoding(name: str, quantizer: Quantizer) -> dict[str, Any]:
    """Give a quantizer as AIMET's encodings of version 1.0.0 have it; their offsets count from the lowest integer."""
    low, _ = quantizer.levels
    kind = "PER_BLOCK" if quantizer.block_size else "PER_CHANNEL" if quantizer.scale.size > 1 else "PER_TENSOR"
    return {
        "name": name,
        "dtype": "INT",
        "bw": quantizer.bits,
        "is_sym": low < 0 and not quantizer.zero_point.any(),
        "scale": [float(one) for one in quantizer.scale.reshape(-1)],
        "offset": [int(low - one) for one in quantizer.zero_point.reshape(-1)],
        "enc_type": kind,
        **({"block_size": quantizer.block_size} if quantizer.block_size else {}),
    }

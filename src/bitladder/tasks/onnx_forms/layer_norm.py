"""A layer norm in parts made one op: as JAX writes it, and as exporters did before opset 17 had the op.

JAX's variance is E[x^2] - E[x]^2. The difference of two large numbers loses most of 8 bits, and its reciprocal root
turns a step more or less into any factor: whether such a graph is right when quantized is luck, and the NPU's is not
the simulation's. Of the others aimet-onnx leaves the parts in float, as if they were the op, which the NPU then
computes in FP16.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bitladder.tasks.onnx_forms.graph import Constants
from bitladder.tasks.onnx_forms.parts import Mean, Parts

__all__ = ["fuse_layer_norm"]


@dataclass(frozen=True)
class _Norm:
    """A layer norm that was found: of what mean, with which constants, and the node that makes its output."""

    mean: Mean
    epsilon: float
    gamma: np.ndarray
    beta: np.ndarray
    end: onnx.NodeProto


def fuse_layer_norm(graph: onnx.GraphProto, root: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """Make a LayerNormalization where a Sqrt is that of a variance. The parts are left without a reader."""
    parts = Parts(graph, constants)
    variance, epsilon = parts.with_constant(parts.maker(root.input[0]), "Add")
    if epsilon is None:
        return None
    find = _of_squares if parts.mean(variance) is None else _of_centred
    norm = find(parts, root, variance, float(epsilon.item()))
    return None if norm is None else _write(parts, root, norm)


def _of_squares(parts: Parts, root: onnx.NodeProto, variance: str, epsilon: float) -> _Norm | None:
    """Follow (x - mean) * (1 / root * gamma) + beta, of the variance E[x^2] - E[x]^2."""
    clipped, _ = parts.with_constant(parts.maker(variance), "Max")
    squares, square = parts.operands(parts.maker(clipped or variance), "Sub")
    name = parts.squared(square)
    mean, other = parts.mean(name), parts.mean(squares)
    if mean is None or other is None or (other.axis, other.factor) != (mean.axis, mean.factor):
        return None
    if parts.squared(other.of) != parts.origin(mean.of):
        return None
    inverse = parts.reader(root)
    scale = parts.reader(inverse) if inverse is not None and inverse.op_type == "Reciprocal" else None
    _, gamma = parts.with_constant(scale, "Mul")
    normed = parts.reader(scale)
    end = parts.reader(normed)
    _, beta = parts.with_constant(end, "Add")
    centred = [parts.operands(parts.maker(one), "Sub") for one in parts.operands(normed, "Mul")]
    if (mean.of, name) not in [(one, parts.origin(other)) for one, other in centred]:
        return None
    return None if end is None or gamma is None or beta is None else _Norm(mean, epsilon, gamma, beta, end)


def _of_centred(parts: Parts, root: onnx.NodeProto, variance: str, epsilon: float) -> _Norm | None:
    """Follow (x - mean) / root * gamma + beta, of the variance E[(x - mean)^2]."""
    of_squares = parts.mean(variance)
    centred = parts.squared(of_squares.of) if of_squares is not None else ""
    x, name = parts.operands(parts.maker(centred), "Sub")
    mean = parts.mean(name)
    if mean is None or of_squares is None or parts.origin(mean.of) != parts.origin(x):
        return None
    if (of_squares.axis, of_squares.factor) != (mean.axis, mean.factor):
        return None
    divided = parts.reader(root)
    above, below = (parts.origin(one) for one in parts.operands(divided, "Div"))
    scaled = parts.reader(divided)
    _, gamma = parts.with_constant(scaled, "Mul")
    end = parts.reader(scaled)
    _, beta = parts.with_constant(end, "Add")
    if (above, below) != (centred, root.output[0]):
        return None
    return None if end is None or gamma is None or beta is None else _Norm(mean, epsilon, gamma, beta, end)


def _write(parts: Parts, root: onnx.NodeProto, norm: _Norm) -> list[onnx.NodeProto] | None:
    """Put the op in the place of what comes out, between transposes where its axis is not the last."""
    mean, end = norm.mean, norm.end
    shape = parts.shapes.get(mean.of)
    count = max(norm.gamma.size, norm.beta.size)
    if not shape or (mean.factor is not None and not np.isclose(mean.factor, 1 / count)):
        return None
    axis = mean.axis % len(shape)
    wide = tuple(count if place == axis else 1 for place in range(len(shape)))
    names = [f"{end.output[0]}.{kind}" for kind in ("gamma", "beta")]
    if shape[axis] not in (0, count):  # 0: not known
        return None
    for one, values in zip(names, (norm.gamma, norm.beta), strict=True):
        if np.broadcast_shapes(values.shape, wide) != wide:
            return None
        spread = np.broadcast_to(values, wide).reshape(-1)
        parts.graph.initializer.append(numpy_helper.from_array(spread.copy(), one))
    output = end.output[0]
    end.output[0] = f"{output}.in_parts"
    last = len(shape) - 1
    turn = [last if place == axis else axis if place == last else place for place in range(len(shape))]
    turned, made = (mean.of, output) if axis == last else (f"{output}.turned", f"{output}.normed")
    op = helper.make_node("LayerNormalization", [turned, *names], [made], f"{output}.norm", epsilon=norm.epsilon)
    if axis == last:
        return [op, root]
    before = helper.make_node("Transpose", [mean.of], [turned], f"{output}.turn", perm=turn)
    return [before, op, helper.make_node("Transpose", [made], [output], f"{output}.turn_back", perm=turn), root]

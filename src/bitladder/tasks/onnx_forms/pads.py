"""Padding in numbers, where a convolution asks for an output of some size: techniques count on it."""

import onnx
from onnx import helper

from bitladder.tasks.onnx_forms.sizes import sizes_of

__all__ = ["write_pads"]


def write_pads(proto: onnx.ModelProto) -> None:
    """Write `pads` for `auto_pad` of convolutions whose input's sizes are known, in place."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    sizes = {value.name: sizes_of(value)[2:] for value in (*inferred.input, *inferred.value_info)}
    kernels = {tensor.name: list(tensor.dims)[2:] for tensor in proto.graph.initializer}
    for node in (one for one in proto.graph.node if one.op_type == "Conv"):
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        how, size, kernel = given.get("auto_pad"), sizes.get(node.input[0]), kernels.get(node.input[1])
        if how not in (b"SAME_UPPER", b"SAME_LOWER") or not size or not kernel:
            continue
        if not all(isinstance(one, int) for one in size):
            continue
        ones = [1] * len(kernel)
        axes = zip(size, kernel, given.get("strides", ones), given.get("dilations", ones), strict=True)
        missing = [
            max(0, (-(-int(one) // stride) - 1) * stride + (width - 1) * apart + 1 - int(one))
            for one, width, stride, apart in axes
        ]
        less, more = [one // 2 for one in missing], [one - one // 2 for one in missing]
        pads = less + more if how == b"SAME_UPPER" else more + less
        for attribute in [one for one in node.attribute if one.name in ("auto_pad", "pads")]:
            node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute("pads", pads))

"""Models of the NPU's integers against the emulator, op by op, on random tensors."""

import math
import re

import numpy as np
import onnx
import pytest
import torch
from emulated import Constant, compare, emulate, model, one_op, quantizer, random_inputs
from onnx import TensorProto

from bitladder.htp.arithmetic import convolution
from bitladder.htp.arithmetic.executor import FAMILIES, Executor
from bitladder.htp.arithmetic.requantize import Multiplier, WideMultiplier
from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.targets.workers import worker_pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with worker_pool(1, tmp_path_factory.mktemp("pool")) as workers:
        yield workers


def conv(
    bits: int = 8, channels: tuple[int, int] = (8, 24), kernel: int = 3, groups: int = 1, stride: int = 1,
    zero: int = 37, activations: int = 8, bias: float = 0.3, gain: float = 1.0, dead: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """A convolution whose outputs fill their range, with float biases; `gain` makes its output's step finer."""
    numbers, (inner, outer), most = np.random.default_rng(kernel + groups), channels, 2 ** (bits - 1) - 1
    integers = numbers.integers(-most, most + 1, (outer, inner // groups, kernel, kernel))
    scales = numbers.uniform(0.5, 1.5, outer) / most
    if dead:
        scales[0] *= 1e-8
    source = quantizer(5 / 2**activations, zero * 2 ** (activations - 8), activations)
    spread = math.sqrt(integers[0].size) * 0.6 * 1.5
    kind = TensorProto.INT8 if bits == 8 else TensorProto.INT4
    weights = Quantizer(scales.astype(np.float32), np.zeros(outer, np.int64), kind, 0)
    values = integers * weights.scale.astype(np.float64).reshape(-1, 1, 1, 1)
    biases = numbers.normal(size=outer) * spread * bias
    return one_op(
        "Conv",
        [((1, inner, 24, 24), source), Constant(values, weights), Constant(biases.astype(np.float32))],
        quantizer(spread * 6 / 2**activations / gain, 100 * 2 ** (activations - 8), activations),
        kernel_shape=[kernel] * 2,
        group=groups,
        strides=[stride] * 2,
        pads=[kernel // 2] * 4,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"zero": 0},
        {"bits": 4},
        {"bits": 4, "channels": (1, 24), "kernel": 1, "gain": 6.0},  # the accumulator is shifted to the left
        {"channels": (24, 24), "groups": 24},
        {"channels": (300, 8), "kernel": 3},  # float32 alone would not hold the sums
        {"dead": True},  # a bias beyond int32
    ],
    ids=str,
)
def test_a_convolution_is_equal_at_8_bits(changes, pool):
    graph = conv(**changes)
    assert not compare(graph, random_inputs(graph, 2), pool).any()


def test_a_wrong_rounding_is_caught(pool, monkeypatch):
    def half_even(self, accumulator, zero_point, low, high):
        scaled = accumulator.double() * self.factor / 2.0 ** (15 + self.shift)
        return (torch.round(scaled) + zero_point).clamp(low, high).float()

    graph = conv()
    inputs = random_inputs(graph)
    emulated = emulate(graph, inputs, pool)
    assert (model(graph, inputs) == emulated).all()
    monkeypatch.setattr(convolution, "_in_float", lambda *_: None)  # which rounds by itself
    monkeypatch.setattr(convolution.Multiplier, "apply", half_even)
    assert 0.9 < (model(graph, inputs) == emulated).mean() < 0.995


@pytest.mark.parametrize("activations", [8, 16])
@pytest.mark.parametrize("channels", [24, 300])  # of many channels, in some the constant is a tie in float32
def test_a_strided_depthwise_convolution_is_equal(channels, activations, pool):
    graph = conv(channels=(channels, channels), groups=channels, stride=2, activations=activations)
    assert not compare(graph, random_inputs(graph, 4), pool).any()


def test_a_strided_depthwise_convolution_has_large_biases_rounded_as_the_compiler_does(pool):
    """At 16 bits some are millions of steps; rounded in one division, three of these channels are off."""
    channels, generator = 16, np.random.default_rng(1)
    weights, step = generator.integers(-127, 128, (channels, 1, 3, 3)), 5 / 65536
    scales = (generator.uniform(0.5, 1, channels) * 2.0 ** -np.tile((7.0, 8.0), 8) * 8 / 5).astype(np.float32)
    held = Quantizer(scales, np.zeros(channels, np.int64), TensorProto.INT8, 0)
    weighted = Constant(weights * scales.reshape(-1, 1, 1, 1).astype(float), held)
    bias = Constant((generator.uniform(0, 0.5, channels) * 8).astype(np.float32))
    graph = one_op(
        "Conv", [((1, channels, 96, 96), quantizer(step, 0, 16)), weighted, bias], quantizer(8 / 65536, 0, 16),
        kernel_shape=[3, 3], group=channels, strides=[2, 2], pads=[1] * 4,
    )  # fmt: skip
    inputs = {name: values / 2 for name, values in random_inputs(graph).items()}  # so that few outputs are clipped
    assert not compare(graph, inputs, pool).any()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"zero": 0, "kernel": 5},
        {"bits": 4},
        {"channels": (24, 24), "groups": 24},
        {"channels": (300, 8)},  # float32 alone would not hold the sums
        {"channels": (1, 24), "kernel": 1, "gain": 100.0},  # many steps of the output in one of the sum
    ],
    ids=str,
)
def test_a_convolution_is_equal_at_16_bits(changes, pool):
    graph = conv(activations=16, **changes)
    assert not compare(graph, random_inputs(graph, 2), pool).any()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_linear_layer_is_equal_at_8_bits(bits, pool):
    numbers, most = np.random.default_rng(0), 2 ** (bits - 1) - 1
    kind = TensorProto.INT8 if bits == 8 else TensorProto.INT4
    weights = Quantizer(numbers.uniform(0.5, 1, 32).astype(np.float32) / most, np.zeros(32, np.int64), kind, 0)
    values = numbers.integers(-most, most + 1, (32, 64)) * weights.scale[:, None].astype(np.float64)
    operands = [((1, 64), quantizer(0.02, 90, 8)), Constant(values, weights), Constant(np.ones(32, np.float32))]
    graph = one_op("Gemm", operands, quantizer(0.15, 120, 8), transB=1)
    assert not compare(graph, random_inputs(graph, 20), pool).any()


@pytest.mark.parametrize(
    ("scales", "zeros"),
    [
        ((0.02, 0.031, 0.05), (0, 0, 0)),
        ((0.02, 0.031, 0.05), (20, 130, 90)),
        ((0.05, 0.011, 0.052), (10, 20, 15)),
        ((0.0219, 0.0823, 0.1018), (104, 33, 70)),
        ((0.03, 0.03, 0.03), (128, 128, 128)),
        ((0.04, 0.05, 0.02), (127, 127, 127)),
    ],
)
def test_an_add_is_equal_for_all_pairs_of_8_bit_integers(scales, zeros, pool):
    left, right, output = (quantizer(*one, 8) for one in zip(scales, zeros, strict=True))
    graph = one_op("Add", [((1, 1, 256, 256), left), ((1, 1, 256, 256), right)], output)
    steps = np.arange(256)
    pairs = [one[None, None].astype(np.float32) for one in np.meshgrid(steps - zeros[0], steps - zeros[1])]
    inputs = {"x0": pairs[0] * left.scale, "x1": pairs[1] * right.scale}
    assert not compare(graph, inputs, pool).any()


@pytest.mark.parametrize("zero", [1000, 54321], ids=["even", "odd"])
def test_an_add_is_equal_at_16_bits(zero, pool):
    """Also where what zero points and the half that rounds come to is odd: one sum in 30,000 shows it."""
    left, right = quantizer(0.51e-4, 12345, 16), quantizer(0.77e-4, zero, 16)
    graph = one_op("Add", [((1, 8, 128, 128), left), ((1, 8, 128, 128), right)], quantizer(1e-4, 33333, 16))
    assert not compare(graph, random_inputs(graph), pool).any()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("op", ["GlobalAveragePool", "AveragePool"])
def test_a_mean_is_equal_and_of_windows_within_a_step(op, bits, pool):
    source, output = quantizer(0.00628 / 2 ** (bits - 8), 0, bits), quantizer(0.00711 / 2 ** (bits - 8), 0, bits)
    kernel = {"kernel_shape": [2, 2], "strides": [2, 2]} if op == "AveragePool" else {}
    graph = one_op(op, [((1, 512, 4, 4), source)], output, **kernel)
    difference = compare(graph, random_inputs(graph, 4), pool)
    # how windows smaller than the image are rounded is not all known
    assert abs(difference).max() <= (op == "AveragePool")


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "HardSwish", "Exp", "Gelu"])
def test_a_table_is_equal_for_all_8_bit_integers(op, pool):
    source = quantizer(0.05, 128, 8)
    graph = one_op(op, [((1, 1, 16, 16), source)], Quantizer.of_range(-1, 6, 8))
    inputs = {"x0": ((np.arange(256) - 128) * source.scale).astype(np.float32).reshape(1, 1, 16, 16)}
    assert not compare(graph, inputs, pool).any()


@pytest.mark.parametrize(
    ("bits", "scale", "zero"),
    [(8, 0.0083, 120), (8, 0.0078125, 0), (8, 0.031, 60), (16, 3.3e-5, 30000), (16, 0.001, 0)],
)
def test_inputs_are_quantized_as_the_npu_does(bits, scale, zero, pool):
    numbers, same, shape = np.random.default_rng(0), quantizer(scale, zero, bits), (1, 1, 64, 64)
    graph = one_op("Pad", [(shape, same), Constant(np.array([0] * 6 + [1] * 2))], same)
    halves = np.floor(numbers.uniform(-zero, 2**bits - 1 - zero, shape)) + 0.5
    if bits == 8:  # where an FP16 becomes the half
        halves -= np.copysign(np.spacing(np.abs(halves).astype(np.float16)).astype(float) / 2, halves)
    near = (halves * float(same.scale)).astype(np.float32)
    near = (near.view(np.int32) + numbers.integers(-3, 4, shape).astype(np.int32)).view(np.float32)
    anywhere = numbers.uniform(-zero - 20, 2**bits + 20 - zero, shape) * float(same.scale)
    inputs = {"x0": np.concatenate([near, anywhere.astype(np.float32)])}
    assert not compare(graph, inputs, pool).any()


def between_pad_and_clip(value: float) -> onnx.ModelProto:
    """A convolution that is padded by an op ahead of it, more at the ends, and clipped by one behind it."""
    graph = Graph(conv(kernel=1))
    (node,) = graph.of_type("Conv")
    output = graph.quantizer(node.output[0])
    sides = graph.add_constant("sides", np.array([0, 0, 0, 1, 0, 0, 2, 1]))
    fill = graph.add_constant("fill", np.array(value, np.float32))
    source = graph.quantizer(node.input[0])
    padded = graph.add_node("Pad", [node.input[0], sides, fill], "padded", node)
    graph.set_input(node, 0, graph.add_quantizer(padded, source, node))
    (quantize,) = graph.readers(node.output[0])
    ahead = graph.add_quantizer(node.output[0], output, quantize)
    ends = [graph.add_quantized(name, np.array(end), output, quantize) for name, end in (("low", -1.0), ("high", 2.0))]
    graph.set_input(quantize, 0, graph.add_node("Clip", [ahead, *ends], "clipped", quantize))
    del graph.proto.graph.value_info[:]  # shapes without the pads
    return onnx.shape_inference.infer_shapes(graph.proto)


@pytest.mark.parametrize(("value", "steps"), [(0.0, 3), (1.0, 4)])
def test_what_pads_and_clips_around_a_convolution_is_one_pass_with_it(value, steps, pool):
    """Where zeros are padded; one kernel for three ops is what makes it quick."""
    graph = between_pad_and_clip(value)
    assert len(Executor(graph).steps) == steps
    assert not compare(graph, random_inputs(graph, 2), pool).any()


def test_an_op_without_a_model_runs_in_float_and_is_named():
    graph = one_op("Softmax", [((1, 8), quantizer(0.1, 128, 8))], quantizer(1 / 256, 0, 8))
    executor = Executor(graph)
    assert executor.float_ops == ("Softmax made",)
    values = torch.linspace(-3, 3, 8)[None]
    assert torch.allclose(executor({"x0": values})["y"], values.softmax(1), atol=0.01)


def parsed(body: str, inputs: str) -> onnx.ModelProto:
    """A graph of one input x and output y; `q(a) b` is a tensor a quantized and dequantized as b."""
    body = re.sub(
        r"q\((\w+)\) (\w+)",
        r"\2_q = QuantizeLinear(\1, step, zero) \2 = DequantizeLinear(\2_q, step, zero)",
        body,
    )
    ends = "float step = {0.05}, uint8 zero = {128}"
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> net ({inputs}) => (float[?,?,?] y) <{ends}> {{ {body} }}'
    )


def test_a_shape_that_the_graph_computes_is_a_constant():
    """`flatten(2)` and `x.view(len(x), -1)` are exported so, also where the second shape rests on the first."""
    graph = parsed(
        """
        start = Constant<value_ints = [0]>() two = Constant<value_ints = [2]>() rest = Constant<value_ints = [-1]>()
        q(x) given
        of_given = Shape(given) kept = Slice(of_given, start, two) flat_shape = Concat<axis = 0>(kept, rest)
        flat = Reshape(given, flat_shape)
        q(flat) moved
        of_moved = Shape(moved) back_shape = Concat<axis = 0>(of_moved) back = Reshape(moved, back_shape)
        q(back) y
        """,
        "float[1,3,4,4] x",
    )
    executor = Executor(graph)
    assert executor.float_ops == ()
    values = torch.linspace(-3, 3, 5 * 48).reshape(5, 3, 4, 4)
    assert torch.allclose(executor({"x": values})["y"], values.flatten(2), atol=0.026)


def test_a_graph_that_moves_the_samples_from_the_first_axis_is_run_sample_by_sample():
    """Tokens first, as `nn.MultiheadAttention` has them: Softmax runs in float, and must not be cut by tokens."""
    graph = parsed(
        """
        q(x) given
        tokens = Transpose<perm = [1, 0, 2]>(given)
        q(tokens) moved
        weighed = Softmax<axis = 0>(moved)
        q(weighed) shares
        back = Transpose<perm = [1, 0, 2]>(shares)
        q(back) y
        """,
        "float[1,5,8] x",
    )
    executor = Executor(graph)
    assert executor.float_ops == ("Softmax ",)
    values = torch.linspace(-3, 3, 3 * 40).reshape(3, 5, 8).sin() * 3
    assert torch.allclose(executor({"x": values})["y"], values.softmax(1), atol=0.06)


def test_a_batch_gives_what_its_samples_give_alone(monkeypatch):
    """Also where passes are made over a part at a time."""
    graph = conv()
    inputs = random_inputs(graph, 3)
    alone = [model(graph, {"x0": inputs["x0"][index : index + 1]}) for index in range(3)]
    monkeypatch.setattr(convolution, "IN_CACHE", 1000)
    assert (model(graph, inputs) == np.concatenate(alone)).all()


def test_a_family_that_is_left_out_falls_back_to_float():
    graph = conv()
    families = {op: family for op, family in FAMILIES.items() if op != "Conv"}
    assert Executor(graph, families).float_ops == ("Conv made",)


def test_multipliers_have_12_bits_and_22_at_16_bits():
    ratios = torch.tensor([0.9, 0.1, 1e-3, 1e-7, 3.0])
    factors = Multiplier.of(ratios).factor
    assert ((factors >= 2**11) & (factors <= 2**12)).all()
    factors = WideMultiplier.of(ratios).factor
    assert ((factors >= 2**21) & (factors <= 2**22)).all()


def test_the_graph_that_was_given_is_left_as_it_is():
    graph = conv()
    before = graph.SerializeToString()
    Executor(graph)
    assert graph.SerializeToString() == before
    assert Graph(graph).is_quantized

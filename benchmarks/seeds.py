"""How far PTQ and QAT of a rung are from FP32 over several seeds, by the pipeline's own stages.

    python benchmarks/seeds.py [--rung tiny] [--seeds 0,1,2] [key=value ...]

Each seed runs `dvc repro qat@RUNG` in a temporary copy of this folder's files, with `qat.when: always` and the keys
given, such as `qat.epochs=10`; DVC's cache is shared, so what has been run before is not run again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
LIMIT_S = 3600


def main() -> None:
    """Print a row a seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rung", default="tiny")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("changes", nargs="*", metavar="key=value")
    given = parser.parse_args()
    changes = dict(change.split("=", 1) for change in given.changes)
    print("| seed | FP32 | PTQ | drop, points | QAT | drop, points | technique | epochs |\n" + "|---" * 8 + "|")
    for seed in map(int, given.seeds.split(",")):
        print(row(seed, given.rung, {"qat.when": "always", **changes, "seed": str(seed)}), flush=True)


def row(seed: int, rung: str, changes: dict[str, str]) -> str:
    """Run one seed; give its row."""
    with tempfile.TemporaryDirectory(prefix="bitladder-seeds-") as name:
        folder = Path(name)
        copy_project(folder)
        edit(folder / "params.yaml", changes)
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "src"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        subprocess.run(
            ["dvc", "repro", f"qat@{rung}"], cwd=folder, env=environment, check=True, stdout=sys.stderr, timeout=LIMIT_S
        )
        names = ("eval/fp32", f"ptq/{rung}", f"eval/{rung}")
        fp32, ptq, qat = (json.loads((folder / f"metrics/{name}.json").read_text("utf-8")) for name in names)
        epochs = (folder / f"metrics/qat/{rung}.csv").read_text("utf-8").splitlines()[1:]
    return (
        f"| {seed} | {fp32['value']:.4f} | {ptq['value']:.4f} | {100 * ptq['drop']:+.2f} | {qat['value']:.4f}"
        f" | {100 * qat['drop']:+.2f} | {qat['technique']} | {len(epochs) - 1} |"
    )


def copy_project(folder: Path) -> None:
    """Copy the files that git knows, and have DVC use this folder's cache."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    cache = subprocess.run(["dvc", "cache", "dir"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    with (folder / ".dvc/config.local").open("a", encoding="utf-8") as file:
        file.write(f"[cache]\n    dir = {Path(ROOT, cache).resolve()}\n")


def edit(path: Path, changes: dict[str, str]) -> None:
    """Set keys of params.yaml, values read as YAML."""
    yaml = YAML()
    values: Any = yaml.load(path)
    for key, text in changes.items():
        *parents, last = key.split(".")
        block = values
        for parent in parents:
            block = block[parent]
        block[last] = YAML(typ="safe").load(text)
    yaml.dump(values, path)


if __name__ == "__main__":
    main()

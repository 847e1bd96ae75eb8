"""A small real pipeline in a temporary clone: real data, AIMET, backend and MLflow; few samples, two rungs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from support import ROOT

SMALL = {
    "compute.threads": 1,
    "task.args": {"train": 600, "calibration": 100, "evaluation": 100},
    "train.epochs": 4,
    "goals.max_drop": 1.0,
    "verify": {"max_drop": 0.05, "min_sqnr_db": 30},
    "ladder": {
        "compact": {"weights": 8, "activations": 8, "after": "fp16"},
        "tiny": {"weights": 4, "activations": 8, "after": "compact"},
    },
    "ptq.samples": 60,
    "ptq.max_drop": 1.0,
    "qat.when": "always",
    "qat.epochs": 1,
    "export.samples": 20,
    "export.min_sqnr_db": 30,
    "target.samples": 20,
    "target.max_gap": 1.0,
}

ONE_RUNG = {
    "compute.threads": 1,
    "train.epochs": 1,
    "goals.max_drop": 1.0,
    "verify": {"max_drop": 1.0, "min_sqnr_db": 0},
    "ladder": {"tiny": {"weights": 4, "activations": 8, "after": "fp16"}},
    "sensitivity.samples": 8,
    "ptq.techniques": ["min-max"],
    "ptq.samples": 60,
    "qat.when": "never",
    "export.samples": 8,
    "export.min_sqnr_db": 0,
    "target.samples": 8,
    "target.max_gap": 1.0,
    "bundle.samples": 4,
}
"""For the pipeline of `bitladder init`: one rung, few samples."""

PLANTED = "planted-secret-5c1d"
"""Stands for a secret: every command of a clone has it in its environment, and it must turn up nowhere."""

SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AZURE_STORAGE_KEY",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "QAIHUB_TOKEN",
)


@dataclass(frozen=True)
class Repro:
    """What a `dvc repro` did: the stages that it ran, its exit code and all that it printed."""

    ran: set[str]
    code: int
    text: str


@dataclass(frozen=True)
class Clone:
    """A temporary copy of this commit's files, with params made small."""

    root: Path

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, with this clone's code and its own MLflow store."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {**os.environ, "PATH": path, "PYTHONPATH": str(self.root / "src")}
        settings |= dict.fromkeys(SECRETS, PLANTED) | env
        settings.pop("MLFLOW_TRACKING_URI", None)
        settings.pop("PYTEST_CURRENT_TEST", None)  # differs from test to test, and forks come of equal environments
        return subprocess.run(words, cwd=self.root, env=settings, capture_output=True, text=True, check=False)

    def repro(self, *words: str, **env: str) -> Repro:
        done = self.run("dvc", "repro", *words, **env)
        text = done.stdout + done.stderr
        return Repro(set(re.findall(r"Running stage '([^']+)'", text)), done.returncode, text)

    def edit(self, changes: Mapping[str, Any]) -> None:
        """Change params.yaml, comments and all else kept."""
        yaml, path = YAML(), self.root / "params.yaml"
        values = yaml.load(path.read_text("utf-8"))
        for key, value in changes.items():
            *parents, last = key.split(".")
            block = values
            for parent in parents:
                block = block[parent]
            block[last] = value
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(values, file)


def make_clone(root: Path, changes: Mapping[str, Any] = SMALL) -> Clone:
    """Copy the project's own files, committed or not, into a repository of their own, and change params.yaml."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    clone = Clone(root)
    clone.edit(changes)
    return clone

"""Names that tests share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

DELETED = object()
"""Stands for a key to leave out of params.yaml."""


@dataclass(frozen=True)
class Trained:
    """A task of few digits, its splits, its FP32 network after a short training, and that made fit for AIMET."""

    task: Any
    splits: Any
    model: Any
    prepared: Any
    sample: Any

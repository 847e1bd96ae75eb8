"""A git repository that tests of diffs change."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


def git(*words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout


def edit_json(path: str, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(Path(path).read_text())
    change(record)
    Path(path).write_text(json.dumps(record))

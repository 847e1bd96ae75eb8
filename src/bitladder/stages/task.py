"""task@KEY: the hash of one of the files and folders that the task is made of."""

from pathlib import Path

from bitladder.params import Params
from bitladder.paths import TASK_FILES
from bitladder.running.files import hash_path, write_json

__all__ = ["main"]


def main(params: Params, key: str) -> None:
    """Write build/task/KEY.json."""
    path = params.task.files[key]
    write_json(TASK_FILES / f"{key}.json", {"path": path, "sha256": hash_path(Path(path))})

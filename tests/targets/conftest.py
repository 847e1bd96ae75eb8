"""A disk that fills up. AI Hub's client has an environment of its own: its protobuf is older than the lock's."""

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore = [] if find_spec("qai_hub") else ["test_aihub.py"]


@pytest.fixture
def small_disk(tmp_path):
    """Give a function that mounts a disk of that size, or resizes it."""
    folder, mounted = tmp_path / "disk", []
    folder.mkdir()

    def of(size: str) -> Path:
        words = (
            ["-o", f"remount,size={size}", str(folder)] if mounted else ["-t", "tmpfs", "-o", f"size={size}", "none"]
        )
        done = subprocess.run(["mount", *words, *([] if mounted else [str(folder)])], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting a small disk takes root")
        mounted.append(size)
        return folder

    yield of
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)

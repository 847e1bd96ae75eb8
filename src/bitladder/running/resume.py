"""Where long work keeps what it has done, so that a killed stage goes on where it was.

DVC deletes a stage's outputs before it runs, so this lies elsewhere: in build/work, under a name made from all that
the work depends on. Changed inputs find nothing there, and finished work leaves nothing.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitladder.paths import PACKAGE, WORK
from bitladder.running.files import replacing

__all__ = ["fingerprint", "load_state", "save_state", "workspace"]


def fingerprint(*values: Any, files: tuple[Path, ...] = ()) -> str:
    """Hash values (by their text), the contents of files, and this package's own code."""
    digest = hashlib.sha256(repr(values).encode())
    for path in (*files, *sorted(PACKAGE.rglob("*.py"))):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextmanager
def workspace(name: str, key: str, main: bool = True, keep: bool = False) -> Iterator[Path]:
    """Give the folder for one piece of work; it goes when the work ends well, and so do those of older inputs.

    Of several processes that work together, only the `main` one clears folders away. What is `keep` stays for the next
    that asks for the same work, until its inputs change.
    """
    folder = WORK / name / key
    if not main:
        yield folder
        return
    for other in folder.parent.glob("*") if folder.parent.is_dir() else ():
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if not keep:
        shutil.rmtree(folder.parent)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all. For resuming only: no stage reads another's state."""
    import torch

    # Through Python's file: torch's own writer meets a full disk without saying so
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any] | None:
    """Read what save_state wrote; None if there is nothing."""
    import torch

    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state

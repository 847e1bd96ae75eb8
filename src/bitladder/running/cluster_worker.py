"""What runs on a cluster's workers: versions, work as it arrives, and files that were sent. Starts without torch."""

import fcntl
import hashlib
import os
import pickle
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from bitladder.errors import UserError
from bitladder.running import determinism
from bitladder.running.forksocket import is_private
from bitladder.running.resume import fingerprint
from bitladder.running.version import RELEASE, installed

__all__ = ["NotHereError", "Parcel", "Sent", "claim_core", "own_folder", "perform", "versions"]

PACKAGES = ("onnxruntime-qnn", "onnxruntime", "numpy", "torch", "aimet-torch")

FETCH_S = 600.0  # in which a machine must have been sent what it works on

KEPT_S = 24 * 3600  # how long files stay that nobody has used since


@cache
def versions() -> dict[str, str | None]:
    """Give what bits depend on: this package, with a hash of its code, and those that compute."""
    return {"bitladder": f"{RELEASE} ({fingerprint()})", **{name: installed(name) for name in PACKAGES}}


def perform(packed: bytes, references: list[Any], threads: int, device: str) -> Any:
    """Do work as it arrives: a function and its arguments, pickled; `references` are of what was sent apart."""
    determinism.pin(threads, device)  # before the work imports torch

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, index: int) -> Any:
            return references[index]

    work, args = Unpickler(BytesIO(packed)).load()
    return work(*args)


class NotHereError(Exception):
    """What a worker was told of, and does not see."""


class Parcel(ABC):
    """What travels in the place of a value, and becomes it where the work is done."""

    @abstractmethod
    def unpack(self) -> Any:
        """Give the value. Raise NotHereError where this machine cannot."""


@dataclass(frozen=True)
class Sent(Parcel):
    """A file that was sent, with those that belong beside it, by the hash of them all."""

    name: str
    key: str
    reference: Any

    @classmethod
    def of(cls, name: str, files: Mapping[str, bytes], put: Callable[[Any], Any]) -> "Sent":
        """Hand files to `put`, which gives a reference to them."""
        digest = hashlib.sha256()
        for one, values in files.items():
            digest.update(f"{one} {len(values)} ".encode() + values)
        return cls(name, digest.hexdigest(), put(dict(files)))

    def unpack(self) -> str:
        """Give the path of the file on this machine, which fetches it if it has not yet."""
        import ray

        kept = own_folder() / "sent"
        folder = kept / self.key
        if not folder.is_dir():
            kept.mkdir(exist_ok=True)
            for old in [one for one in kept.iterdir() if time.time() - one.stat().st_mtime > KEPT_S]:
                shutil.rmtree(old, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(dir=kept))
            for name, values in ray.get(self.reference, timeout=FETCH_S).items():
                (unfinished / name).write_bytes(values)
            with suppress(OSError):  # another worker of this machine was first
                unfinished.rename(folder)
            shutil.rmtree(unfinished, ignore_errors=True)
        os.utime(folder)
        return str(folder / self.name)


def own_folder() -> Path:
    """Give this user's folder on this machine; its contents are run, so nobody else may write there."""
    folder = Path(tempfile.gettempdir(), f"bitladder-cluster-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_private(folder):
        raise UserError(f"{folder}: others may write there; remove it")
    return folder


def claim_core() -> None:
    """Keep this process, and those that it starts, to a core that no other worker of this machine has.

    The emulator hands its work from thread to thread, which takes up to twice as long from one core to another.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    for core in sorted(os.sched_getaffinity(0)):
        descriptor = os.open(own_folder() / f"core-{core}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process, however that ends
        except OSError:
            os.close(descriptor)
            continue
        with suppress(OSError):  # some sandboxes allow it to nobody
            os.sched_setaffinity(0, {core})
        return

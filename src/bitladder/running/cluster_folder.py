"""Work for workers of a cluster that see this folder: it reads files there, and may keep there what it has done."""

import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

from bitladder.errors import UserError
from bitladder.running.cluster import Cluster
from bitladder.running.cluster_worker import NotHereError
from bitladder.running.determinism import check_device
from bitladder.running.resume import fingerprint

__all__ = ["SharedFolder"]


class SharedFolder:
    """The current folder as workers see it, if the files that the work depends on are the same there.

    `places` is how many pieces of work the cluster does at once.
    """

    def __init__(self, cluster: Cluster, files: tuple[Path, ...], cpus: int, device: str = "cpu") -> None:
        """Take what a piece of work depends on, and what it keeps busy: so many CPUs, and a GPU where it runs there.

        Raises UserError where that is asked for, and the cluster has none.
        """
        self._cluster, self._files, self._device = cluster, files, device
        self._key = fingerprint(files=files)
        self._cpus, self._gpus = min(cpus, max(1, cluster.largest)), int(device == "cuda")
        self.places = max(1, cluster.workers // max(1, self._cpus))
        if self._gpus:
            if not cluster.gpus:
                raise UserError(f"compute.device: {device}, and the cluster has no GPU; set compute.cluster: null")
            self.places = min(self.places, cluster.gpus)

    def schedule(self, work: Callable[..., Any], *args: Any) -> Future:
        """Have work done in the folder. Its future raises NotHereError where a worker does not see it."""
        arguments = (Path.cwd(), self._files, self._key, self._device, work, args)
        return self._cluster.schedule(_in_folder, arguments, self._cpus, self._gpus)


def _in_folder(
    folder: Path, files: tuple[Path, ...], key: str, device: str, work: Callable[..., Any], args: tuple
) -> Any:
    if not folder.is_dir():
        raise NotHereError(f"{socket.gethostname()} has no {folder}")
    with chdir(folder):
        if _key_here(folder, files, key) != key:
            raise NotHereError(f"{socket.gethostname()} has other files in {folder}")
        check_device(device)
        return work(*args)


@cache
def _key_here(folder: Path, files: tuple[Path, ...], key: str) -> str | None:
    """Hash the files once for each key that is asked for: a worker may do many pieces of the same work."""
    try:
        return fingerprint(files=files)
    except OSError:
        return None

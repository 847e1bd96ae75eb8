"""The emulator on a cluster's workers. Each has a process that can be given up, as it has on one machine."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pebble import ProcessExpired

from bitladder.params import ComputeParams
from bitladder.running.cluster import Cluster
from bitladder.running.cluster_connect import connected
from bitladder.running.cluster_worker import NotHereError, Parcel, Sent, claim_core, own_folder
from bitladder.targets.pool import Pool
from bitladder.targets.workers import CRASHES, LOG_FILE, LocalPool, rows_of, worker_pool

if TYPE_CHECKING:  # torch's, which workers do without
    from bitladder.tasks.samples import Samples

__all__ = ["ClusterPool", "cluster_pool"]

START_S = 120.0  # what a process may take to start, on a machine that is busy

_opened = ExitStack()
"""What lasts as long as a worker."""


class LostProcess(BrokenExecutor):
    """A worker's process was killed, or does not start: as this says little of the work, another one does it."""


class ClusterPool:
    """A cluster as a pool. Indices of samples are sent, until a worker does not see what they stand for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._shared = cluster, True

    @property
    def workers(self) -> int:
        """How many there are: CPUs of the cluster."""
        return self._cluster.workers

    def send(self, path: Path) -> Sent:
        """Send a file, with those beside it, once."""
        return self._cluster.send(path)

    def rows(self, samples: "Samples", indices: range) -> Any:
        """Give indices where workers may see the samples themselves; else the samples."""
        from bitladder.tasks.shared import shared_rows

        return (shared_rows(samples, indices) if self._shared else None) or rows_of(samples, indices)

    def schedule(self, function: Callable[..., Any], args: tuple = (), *, timeout: float | None = None) -> Future:
        """Have it called in a process of some worker."""
        future = self._cluster.schedule(in_process, (function, args, timeout), again=(LostProcess,))
        future.add_done_callback(self._note)
        return future

    def stop(self) -> None:
        """Leave it to the end of the connection, which ends all work."""

    def _note(self, future: Future) -> None:
        if not future.cancelled() and isinstance(future.exception(), NotHereError):
            self._shared = False


@contextmanager
def cluster_pool(compute: ComputeParams) -> Iterator[Pool]:
    """Join the cluster of `compute.cluster`, which then emulates."""
    with connected(compute) as cluster:
        yield ClusterPool(cluster)


def in_process(function: Callable[..., Any], args: tuple, timeout: float | None) -> Any:
    """Call a function in this worker's process, once what stands for files and samples is here."""
    here = tuple(one.unpack() if isinstance(one, Parcel) else one for one in args)
    log = f"{own_folder() / LOG_FILE} on {socket.gethostname()}"
    future = _pool().schedule(function, args=here, timeout=timeout)
    try:
        return future.result(timeout and timeout + START_S)
    except TimeoutError:
        if future.done():  # by its own limit
            raise
        _pool.cache_clear()
        raise LostProcess(f"none started in {START_S:.0f} s on {socket.gethostname()}; {log} may say why") from None
    except ProcessExpired as death:
        if death.exitcode in CRASHES:
            death.log = log  # type: ignore[attr-defined]
            raise
        raise LostProcess(f"exit code {death.exitcode} on {socket.gethostname()}; {log} may say why") from None


@cache
def _pool() -> LocalPool:
    """Start this worker's process, on a core of its own, for as long as the worker lives."""
    claim_core()
    return _opened.enter_context(worker_pool(1, own_folder()))

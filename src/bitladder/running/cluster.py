"""Work on many machines, over Ray, whose cluster this process has joined (cluster_connect.py).

A worker is refused unless it has this machine's versions of all that bits depend on. What it is sent is hashed, and
kept there by that hash.
"""

import pickle
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.params import ComputeParams
from bitladder.running.cluster_worker import Sent, versions
from bitladder.running.determinism import INSTRUCTION_SET
from bitladder.running.explain import shown

__all__ = ["LOST_S", "Cluster", "ClusterError", "host_and_port"]

TRIES = 4  # of work whose worker is lost

WATCH_EVERY_S, LOST_S = 3.0, 20.0  # the second: how long the head may be away

TELL_S, STUCK_S = 60.0, 600.0  # with no result for so long, that is told; or given up, where no machine has the CPUs

RUN_AGAIN = "run again: it goes on from what was kept"


class ClusterError(UserError):
    """The cluster itself, or so many workers in turn that it is no accident."""


class Cluster:
    """A cluster that this process has joined. Work is a function of an importable module, and its arguments.

    What goes wrong with it is in its future. `workers` is how many CPUs all machines have, `largest` the largest one;
    `gpus` how many GPUs.
    """

    def __init__(self, ray: Any, compute: ComputeParams) -> None:
        self._ray, self._compute, self._where = ray, compute, f"compute.cluster: {compute.cluster}"
        self._versions, self._cpus_of_open = versions(), dict[Future, int]()
        self._closed, self.lost, self._heard = Event(), False, time.monotonic()
        remote = self._where.partition("ray://")[2]
        self._head = host_and_port(remote or ray.get_runtime_context().gcs_address)
        self._count()
        # numpy reads its settings when Ray's own worker starts
        self._call = ray.remote(max_retries=TRIES - 1, runtime_env={"env_vars": INSTRUCTION_SET})(_entry())
        # Threads apart: to count asks the head, which may never answer
        self._watches = [Thread(target=work, daemon=True) for work in (self._watch, self._keep_count)]

    def __enter__(self) -> "Cluster":
        """Watch the cluster's head: where it has gone, Ray waits for a minute, and then ends the process."""
        for watch in self._watches:
            watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        self._closed.set()
        for watch in self._watches:
            watch.join(WATCH_EVERY_S)  # not while Ray is taken down

    def _watch(self) -> None:
        seen, told_s = time.monotonic(), 0.0
        while not self._closed.wait(WATCH_EVERY_S):
            now = time.monotonic()
            silent_s = now - self._heard if self._cpus_of_open else 0.0
            try:
                socket.create_connection(self._head, timeout=WATCH_EVERY_S).close()
                seen = now
            except OSError as error:
                if now - seen > LOST_S:
                    self.lost = True
                    self._fail_open(self._plain(error))
            told_s = min(told_s, silent_s)
            if silent_s > max(TELL_S, 2 * told_s):  # work may be long: each time later than before
                told_s = silent_s
                waits = f"they run, or wait for some of the cluster's {self.workers} CPUs; `ray status` on a node tells"
                tqdm.write(f"{self._silence(silent_s)}: {waits}", file=sys.stderr)
            if silent_s > STUCK_S and self.largest < max(self._cpus_of_open.values(), default=0):
                none = f"{self._silence(silent_s)}: the cluster has no machine of so many left; {RUN_AGAIN}"
                self._fail_open(ClusterError(none))

    def _silence(self, silent_s: float) -> str:
        open_, needed = len(self._cpus_of_open), max(self._cpus_of_open.values(), default=0)
        return f"{self._where}: no result for {silent_s:.0f} s of {open_} tasks of {needed} CPUs"

    def _keep_count(self) -> None:
        while not self._closed.wait(WATCH_EVERY_S):
            with suppress(Exception):  # which the work meets as well, and tells of
                self._count()

    def _count(self) -> None:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cpus = [int(node.get("CPU", 0)) for node in alive]
        self.workers, self.largest = max(1, sum(cpus)), max([0, *cpus])
        self.gpus = int(sum(node.get("GPU", 0) for node in alive))

    def send(self, path: Path) -> Sent:
        """Send a file and those beside it; each machine takes and unpacks them once, where they are needed."""
        files = {one.name: one.read_bytes() for one in sorted(path.parent.iterdir()) if one.is_file()}
        return Sent.of(path.name, files, self._ray.put)

    def schedule(
        self,
        work: Callable[..., Any],
        args: tuple = (),
        cpus: int = 1,
        gpus: int = 0,
        again: tuple[type[Exception], ...] = (),
    ) -> Future:
        """Have work done by some worker. Where that is lost, or raises one of `again`, another one does it.

        Args:
            work: a function of a module that workers can import.
            args: for it.
            cpus: that it keeps busy; with 0, all of it spreads over the machines.
            gpus: that it has to itself.
            again: errors that say nothing of the work.

        Returns: its future, which may be cancelled while a worker is at it.

        """
        spread = {} if cpus else {"scheduling_strategy": "SPREAD"}
        call = self._call.options(num_cpus=cpus, num_gpus=gpus, retry_exceptions=list(again) or False, **spread)
        reference = call.remote(self._versions, self._compute.bits, *self._pack((work, args)))
        future: Future = Future()
        future.add_done_callback(lambda done: done.cancelled() and self._ray.cancel(reference))
        if not self._cpus_of_open:
            self._heard = time.monotonic()
        self._cpus_of_open[future] = cpus
        reference.future().add_done_callback(partial(self._settle, future))
        return future

    def _pack(self, value: Any) -> tuple[bytes, list[Any]]:
        """Pickle by ourselves, so that what a worker cannot import does not hide which version it has."""
        references: list[Any] = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, part: Any) -> int | None:
                if not isinstance(part, reference_type):
                    return None
                references.append(part)
                return len(references) - 1

        reference_type, buffer = self._ray.ObjectRef, BytesIO()
        Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
        return buffer.getvalue(), references

    def _settle(self, future: Future, done: Future) -> None:
        """Hand on what came out. Ray's own errors become one line; those of the work stay what they are."""
        try:
            node, found, value = done.result()
        except BaseException as error:
            self._finish(future, error=self._plain(error))
            return
        if found == self._versions:
            self._finish(future, value)
            return
        name = next(name for name, own in self._versions.items() if found.get(name) != own)
        other = f"the worker {node} has {name} {found.get(name, 'of another version, or none')}"
        here = f"and this machine has {self._versions[name]}; install the same there"
        self._finish(future, error=ClusterError(f"{self._where}: {other}, {here}"))

    def _finish(self, future: Future, value: Any = None, error: BaseException | None = None) -> None:
        self._cpus_of_open.pop(future, None)
        self._heard = time.monotonic()
        with suppress(InvalidStateError):  # the cluster was lost before
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def _fail_open(self, error: BaseException) -> None:
        for future in list(self._cpus_of_open):
            self._finish(future, error=error)

    def _plain(self, error: BaseException) -> BaseException:
        errors = self._ray.exceptions
        if isinstance(error, errors.RayTaskError) and not isinstance(error.cause, errors.RayError):
            return error.cause if isinstance(error.cause, Exception) else RuntimeError(shown(error))
        if isinstance(error, errors.WorkerCrashedError | errors.OutOfMemoryError):
            lost = f"the same work lost {TRIES} workers ({shown(error)}); do they have the memory? Then"
            return ClusterError(f"{self._where}: {lost} {RUN_AGAIN}")
        return ClusterError(f"{self._where}: lost ({shown(error)}); {RUN_AGAIN}")


def host_and_port(address: str) -> tuple[str, int]:
    """Split an address into its two parts."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def _entry() -> Callable[..., Any]:
    """Give what workers are called by. It is no function of this module: Ray sends it whole, and it can speak there."""

    def call(expected: dict, bits: tuple, packed: bytes, references: list) -> tuple[str, dict, Any]:
        import socket

        from ray.util import get_node_ip_address

        node, found = f"{socket.gethostname()} ({get_node_ip_address()})", {}
        try:
            from bitladder.running.cluster_worker import perform, versions

            found = versions()
        except ImportError:
            return node, found, None
        return node, found, perform(packed, references, *bits) if found == expected else None

    return call

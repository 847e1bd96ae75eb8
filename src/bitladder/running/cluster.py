"""Work on many machines, over Ray: what `compute.cluster` of params.yaml names. Without that nothing imports Ray.

A worker is refused unless it has this machine's versions of all that bits depend on. What it is sent is hashed, and
kept there by that hash.
"""

import atexit
import os
import pickle
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

from bitladder.errors import UserError
from bitladder.params import ComputeParams
from bitladder.running.cluster_worker import Sent, versions
from bitladder.running.explain import shown
from bitladder.running.patches import in_force

__all__ = ["Cluster", "ClusterError", "connected"]

TRIES = 4  # of work whose worker is lost

WATCH_EVERY_S, LOST_S = 3.0, 20.0  # the second: how long the head may be away

ANSWER_S = 10.0


class ClusterError(UserError):
    """The cluster itself, or so many workers in turn that it is no accident."""


class Cluster:
    """A cluster that this process has joined. Work is a function of an importable module, and its arguments.

    What goes wrong with it is in its future. `workers` is how many CPUs all machines have, `largest` the largest one.
    """

    def __init__(self, ray: Any, compute: ComputeParams) -> None:
        self._ray, self._compute, self._where = ray, compute, f"compute.cluster: {compute.cluster}"
        self._versions, self._open = versions(), set[Future]()
        self._closed, self.lost = Event(), False
        remote = self._where.partition("ray://")[2]
        self._head = _host_and_port(remote or ray.get_runtime_context().gcs_address)
        self._count()
        self._call = ray.remote(max_retries=TRIES - 1)(_entry())

    def __enter__(self) -> "Cluster":
        """Watch the cluster's head: where it has gone, Ray waits for a minute, and then ends the process."""
        Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        self._closed.set()

    def _watch(self) -> None:
        seen = time.monotonic()
        while not self._closed.wait(WATCH_EVERY_S):
            try:
                socket.create_connection(self._head, timeout=WATCH_EVERY_S).close()
            except OSError as error:
                if time.monotonic() - seen > LOST_S:
                    self.lost = True
                    for future in list(self._open):
                        self._finish(future, error=self._plain(error))
                    return
                continue
            seen = time.monotonic()
            with suppress(Exception):  # which the work meets as well, and tells of
                self._count()

    def _count(self) -> None:
        cpus = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        self.workers, self.largest = max(1, sum(cpus)), max([1, *cpus])

    def send(self, path: Path) -> Sent:
        """Send a file and those beside it; each machine takes and unpacks them once, where they are needed."""
        files = {one.name: one.read_bytes() for one in sorted(path.parent.iterdir()) if one.is_file()}
        return Sent.of(path.name, files, self._ray.put)

    def schedule(
        self, work: Callable[..., Any], args: tuple = (), cpus: int = 1, again: tuple[type[Exception], ...] = ()
    ) -> Future:
        """Have work done by some worker. Where that is lost, or raises one of `again`, another one does it.

        Args:
            work: a function of a module that workers can import.
            args: for it.
            cpus: that it keeps busy.
            again: errors that say nothing of the work.

        """
        call = self._call.options(num_cpus=cpus, retry_exceptions=list(again) or False)
        reference = call.remote(self._versions, self._compute.bits, *self._pack((work, args)))
        future: Future = Future()
        self._open.add(future)
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
        self._open.discard(future)
        with suppress(InvalidStateError):  # the cluster was lost before
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def _plain(self, error: BaseException) -> BaseException:
        errors = self._ray.exceptions
        if isinstance(error, errors.RayTaskError):
            cause = error.cause
            return cause if isinstance(cause, Exception) else RuntimeError(shown(error))
        if isinstance(error, errors.WorkerCrashedError | errors.OutOfMemoryError):
            lost = f"the same work lost {TRIES} workers ({shown(error)}); do they have the memory? Then"
            return ClusterError(f"{self._where}: {lost} run again: it goes on from what was kept")
        return ClusterError(f"{self._where}: lost ({shown(error)}); run again: it goes on from what was kept")


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


@contextmanager
def connected(compute: ComputeParams) -> Iterator[Cluster]:
    """Join the cluster that `compute.cluster` names, or start one of this machine's cores, for as long as it is used.

    Raises UserError where Ray is not installed, or the cluster does not answer.
    """
    address = str(compute.cluster)
    ray = _load(address)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == "local":
            _start_local(ray, quiet)
        else:
            _reach(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        start = "; `ray start --head` makes this machine its first node" if address == "auto" else ""
        raise UserError(f"compute.cluster: {address}: no cluster answers ({shown(error)}){start}") from None
    cluster = Cluster(ray, compute)
    try:
        with cluster:
            yield cluster
    finally:
        leaving = Thread(target=ray.shutdown, daemon=True)
        leaving.start()
        leaving.join(LOST_S if cluster.lost else None)
        atexit.unregister(ray.shutdown)  # or the process would end by waiting for a cluster that was lost


def _load(address: str) -> Any:
    """Import Ray, once it has read of the environment that a token is asked for: it reads that once a process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "600")  # after which it ends the process
    if address == "local":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray turns its token on by itself for a process on a node, and not for one that comes over ray://
    if "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray/auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"compute.cluster: Ray is not installed ({error}); pip install 'bitladder[ray]'") from None
    return ray


def _reach(address: str) -> None:
    """See whether somebody listens: Ray itself tries for minutes."""
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if ":" in where:
        socket.create_connection(_host_and_port(where.removeprefix("ray://")), timeout=ANSWER_S).close()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _start_local(ray: Any, quiet: dict[str, Any]) -> None:
    """Start one for this run alone, on loopback."""
    if in_force("ray-loopback"):
        from ray._private import services

        services.resolve_ip_for_localhost = lambda host: host
    ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)

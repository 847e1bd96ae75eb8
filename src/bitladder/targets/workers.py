"""Processes that work with the backend and can be given up, and what went wrong with them in one line."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pebble import ProcessExpired, ProcessPool

from bitladder.errors import RefusedError, UserError
from bitladder.running.explain import shown
from bitladder.targets.backend import Row, redirect_output
from bitladder.targets.runner import explain

if TYPE_CHECKING:  # torch's, which these processes do without
    from bitladder.tasks.samples import Samples

__all__ = ["CRASHES", "LOG_FILE", "LocalPool", "check_room", "own_cores", "result", "rows_of", "worker_pool"]

LOG_FILE = "backend.log"

CRASHES = {-int(one): one.name for one in (signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGBUS)}
"""Ends of a process that are the backend's own fault; one that is killed may be short of memory, and told to stop."""

START_S = 10  # how long a process may take to start; a few seconds are usual

FULL = 1 << 20  # free bytes under which a disk counts as full


class LocalPool(ProcessPool):
    """Processes of this machine, which see its files and are given samples as they are."""

    def __init__(self, workers: int, **settings: Any) -> None:
        super().__init__(workers, **settings)
        self.workers = workers

    def send(self, path: Path) -> str:
        """Give the path."""
        return str(path)

    def rows(self, samples: "Samples", indices: range) -> list[Row]:
        """Give the inputs of samples."""
        return rows_of(samples, indices)


def rows_of(samples: "Samples", indices: range) -> list[Row]:
    """Read the inputs of samples."""
    return [samples.row(index) for index in indices]


@contextmanager
def worker_pool(workers: int, workspace: Path) -> Iterator[LocalPool]:
    """Give processes whose backend prints to LOG_FILE in `workspace`; work must be scheduled, which starts them.

    Each keeps to its share of the cores: the emulator hands its work from thread to thread, which took up to twice as
    long from one core to another (two processes on two cores).
    """
    # spawn: the backend must not start in a copy of a process that runs torch's threads
    context = get_context("spawn")
    ready, started = context.Semaphore(0), context.Value("i", 0)
    log = str((workspace / LOG_FILE).resolve())
    with LocalPool(workers, initializer=_start, initargs=(log, ready, started, workers), context=context) as pool:
        yield pool
        # One that still starts while the pool is taken down would print a traceback of multiprocessing's own
        for _ in range(workers):
            ready.acquire(timeout=START_S)


def _start(log: str, ready: Semaphore, started: "Synchronized[int]", workers: int) -> None:
    redirect_output(log)
    with started.get_lock():
        number = started.value
        started.value += 1
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # some sandboxes allow it to nobody, and it only makes things faster
            os.sched_setaffinity(0, own_cores(sorted(os.sched_getaffinity(0)), number, workers))
    ready.release()


def own_cores(cores: list[int], number: int, workers: int) -> list[int]:
    """Give the cores of one of so many processes: its share of them, or one where there are fewer.

    One that takes a dead one's place, whose number is past the others', has all: whose died is not known.
    """
    if number >= workers:
        return cores
    return cores[number * len(cores) // workers : (number + 1) * len(cores) // workers] or [cores[number % len(cores)]]


def result(future: Future, work: str, limit: str, workspace: Path) -> Any:
    """Wait for a process's result. Raise UserError, in one line, for what went wrong with it.

    RefusedError where the backend said so, or crashed: it would do the same again.
    """
    try:
        return future.result()
    except TimeoutError:
        raise UserError(f"{work} took longer than {limit}; raise it in params.yaml") from None
    except (ProcessExpired, BrokenExecutor) as death:  # the latter where it died between two tasks
        log = getattr(death, "log", workspace / LOG_FILE)  # it may lie on another machine
        if (code := getattr(death, "exitcode", 0)) in CRASHES:
            raise RefusedError(f"{work}: the backend crashes ({CRASHES[code]}); see {log}") from None
        raise UserError(f"{work}: its process died ({death}); run again, or see {log}") from None
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"{shown(error)}{explain(str(error))}"
        check_room(work, workspace, f" ({reason})")
        # RuntimeError: the backend's own word on the graph
        kind = RefusedError if isinstance(error, RuntimeError) else UserError
        raise kind(f"{work}: {reason}") from None


def check_room(work: str, workspace: Path, seen: str = "") -> None:
    """Raise UserError where the disk is full: the backend cuts some files short there without a word."""
    if shutil.disk_usage(workspace).free < FULL:
        raise UserError(f"{work}: the disk that holds {workspace} is full; make room, and run again{seen}")

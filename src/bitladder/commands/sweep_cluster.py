"""A sweep over a cluster: workers that see this folder run the experiments that DVC has queued."""

import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.params import ComputeParams
from bitladder.paths import WORK
from bitladder.running.cluster_connect import connected
from bitladder.running.cluster_folder import SharedFolder
from bitladder.running.cluster_worker import NotHereError

__all__ = ["run_queued"]


def run_queued(compute: ComputeParams, jobs: int, environment: dict[str, str]) -> None:
    """Run all that `dvc exp run --queue` has queued; what has ended is taken off the queue, and told of if it failed.

    Args:
        compute: names the cluster.
        jobs: experiments at a time.
        environment: for them.

    Raises UserError where a worker does not see this folder.

    """
    from dvc.repo import Repo

    queue = Repo(".").experiments.celery_queue
    left = [entry.asdict() for entry in queue.iter_queued()]
    running: dict[Future, dict[str, Any]] = {}
    bar = tqdm(total=len(left), desc="sweep", unit="experiment")
    with connected(compute) as cluster, _token() as token, bar:
        # no CPUs: the stages of an experiment take some of the cluster's, and must not wait for those it would hold
        shared = SharedFolder(cluster, (token,), 0)
        while left or running:
            while left and len(running) < jobs:
                entry = left.pop(0)
                running[shared.schedule(_run, entry, environment)] = entry
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                entry = running.pop(future)
                try:
                    where, failed = future.result()
                except NotHereError as error:
                    raise UserError(
                        f"compute.cluster: {compute.cluster}: {error}; a sweep wants this folder on each machine, at"
                        " the same path: share it, or set compute.cluster: null. Its experiments stay queued; `dvc"
                        " queue remove --queued` takes them off"
                    ) from None
                if failed:
                    bar.write(f"{entry['name']} failed on {where}; {failed} says why", file=sys.stderr)
                queue.remove([entry["stash_rev"]])
                bar.update()


@contextmanager
def _token() -> Iterator[Path]:
    """Leave a file that no copy of this folder has: what a copy ran would not come here."""
    token = WORK / f"sweep-{uuid4()}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text(token.name)
    try:
        yield token
    finally:
        token.unlink()


def _run(entry: dict[str, Any], environment: dict[str, str]) -> tuple[str, str | None]:
    """Run an experiment as DVC's own queue does; give the name of this machine, and the log where it failed."""
    import dvc_task.proc.tasks  # noqa: F401  # which run_exp calls by its name
    from dvc.repo import Repo
    from dvc.repo.experiments.executor.base import ExecutorInfo
    from dvc.repo.experiments.queue.base import BaseStashQueue
    from dvc.repo.experiments.queue.tasks import run_exp

    BaseStashQueue.get_stash_entry = staticmethod(_find)
    own = dict(os.environ)
    # commands of its stages lie beside this Python; which GPUs they see they say for themselves
    os.environ.update(environment, PATH=f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}")
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        run_exp(entry)
    finally:
        os.environ.clear()
        os.environ.update(own)
    queue, name = Repo(".").experiments.celery_queue, entry["stash_rev"]
    failed = ExecutorInfo.load_json(queue.get_infofile_path(name)).result is None
    return socket.gethostname(), queue.proc[name].stdout if failed else None


def _find(_: object, queued: Any) -> Any:
    """Find what was queued, and leave it in DVC's stash: where this worker is lost, another one looks for it there."""
    from dvc.repo.experiments.stash import ExpStashEntry

    return ExpStashEntry(None, queued.head_rev, queued.baseline_rev, queued.branch, queued.name)

"""PTQ's techniques over a cluster: those that may be wanted next are tried at once, by workers that see this folder."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from bitladder.params import Params
from bitladder.quantize.chains import Attempt, Chains, load_chains
from bitladder.quantize.techniques.technique import ORDER
from bitladder.running.cluster_connect import connected
from bitladder.running.cluster_folder import SharedFolder
from bitladder.running.cluster_worker import NotHereError
from bitladder.running.determinism import seed_all
from bitladder.tasks.task import load_task

__all__ = ["over_cluster"]


@contextmanager
def over_cluster(
    params: Params, rung: str, chains: Chains, files: tuple[Path, ...]
) -> Iterator[Callable[[tuple[str, ...], str], Attempt]]:
    """Join the cluster of `compute.cluster`, and give what does as `chains.attempt` does, with the same bytes.

    That is `chains.attempt` itself where the cluster does one technique at a time.

    Args:
        params: of the pipeline.
        rung: its name.
        chains: this process's own, for what no worker can do: one that lacks the files.
        files: what chains are loaded from.

    """
    with connected(params.compute) as cluster:
        shared = SharedFolder(cluster, files, params.compute.threads, params.compute.device)
        if shared.places == 1:
            yield chains.attempt
            return
        with tqdm(total=len(ORDER), desc="techniques", unit="technique") as bar:
            ahead = _Ahead(shared, chains, (params.model_dump_json(), rung, str(chains.setting.work)), bar)
            try:
                yield ahead.attempt
            finally:
                ahead.call_off()


class _Ahead:
    """Techniques that workers try before it is known whether they are wanted, all on top of what is kept so far.

    Where another one is kept, they are called off: they are wanted on top of that.
    """

    def __init__(self, shared: SharedFolder, chains: Chains, load: tuple[str, str, str], bar: tqdm) -> None:
        self._shared, self._chains, self._load, self._bar = shared, chains, load, bar
        self._base: tuple[str, ...] = ()
        self._open: dict[str, Future] = {}

    def attempt(self, base: tuple[str, ...], name: str) -> Attempt:
        """Give what came of a technique on top of others, and have the next ones tried meanwhile."""
        if base != self._base:
            self.call_off()
            self._base = base
        start = ORDER.index(name)
        # the first is kept whatever it comes to, and all others are tried on top of it
        for wanted in ORDER[start : start + (self._shared.places if base else 1)]:
            if wanted not in self._open:
                self._open[wanted] = self._shared.schedule(_attempt, *self._load, base, wanted)
        self._bar.set_postfix_str(name)
        try:
            found: Attempt = self._open.pop(name).result()
        except NotHereError:
            found = self._chains.attempt(base, name)
        self._bar.update()
        return found

    def call_off(self) -> None:
        """Cancel what is not wanted any more."""
        for future in self._open.values():
            future.cancel()
        self._open.clear()


def _attempt(params: str, rung: str, work: str, base: tuple[str, ...], name: str) -> Attempt:
    found = _chains(Path.cwd(), params, rung, work).attempt(base, name)
    return replace(found, trial=found.trial and found.trial.brief())


@cache
def _chains(folder: Path, text: str, rung: str, work: str) -> Chains:
    """Load what the stages before have left in this folder."""
    params = Params.model_validate_json(text)
    seed_all(params.seed)
    _kept.append(TemporaryDirectory())
    task = load_task(params.task.factory, params.task.args)
    return load_chains(params, rung, task, Path(work), Path(_kept[-1].name))[0]


_kept: list[TemporaryDirectory[str]] = []
"""Folders of FP32's outputs, for as long as a worker lives."""

"""Trying many values at once: a thin guide over `dvc exp run --queue`, with a table at the end."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from bitladder.commands.sweep_cluster import run_queued
from bitladder.errors import UserError
from bitladder.report.revisions import Revision
from bitladder.report.tables import cell
from bitladder.running.patches import require
from bitladder.running.version import load_own_params

__all__ = ["Outcome", "format_outcomes", "sweep"]


@dataclass(frozen=True)
class Outcome:
    """One experiment of a sweep: its name in DVC, what it set, and what came out."""

    name: str
    values: tuple[str, ...]
    chosen: str
    value: float | None
    memory_bytes: int | None
    latency_ms: float | None


def sweep(overrides: Sequence[str], jobs: int) -> list[Outcome]:
    """Run the pipeline for every combination of values, each in a temporary copy of this folder.

    Where `compute.cluster` names a cluster of several machines, its workers run them.

    Args:
        overrides: `key=value,value,...` as `dvc exp run --set-param` takes them.
        jobs: experiments at a time.

    Returns: the finished experiments. Raises UserError where nothing could be queued, or no experiment finished.

    """
    if wrong := [override for override in overrides if "=" not in override]:
        raise UserError(f"{wrong[0]}: expected key=value,value, for instance ladder.tiny.weights=4,8")
    before, compute = set(_experiments()), load_own_params().compute
    settings = [word for override in overrides for word in ("--set-param", override)]
    if _dvc("exp", "run", "--queue", *settings):
        raise UserError("dvc queued nothing; it says why above")
    if compute.cluster not in (None, "local"):
        run_queued(compute, jobs, _environment())
    elif _dvc("exp", "run", "--run-all", "--jobs", str(jobs)):  # DVC's own queue does as well on this machine
        print("Some experiments failed: `dvc queue status` lists them, `dvc queue logs NAME` says why.")  # noqa: T201
    fresh = {name: revision for name, revision in _experiments().items() if name not in before}
    if not fresh:
        raise UserError("no experiment finished; the logs named above say why")
    keys = [override.split("=", 1)[0] for override in overrides]
    return [_outcome(name, revision, keys) for name, revision in sorted(fresh.items())]


def format_outcomes(outcomes: Sequence[Outcome], overrides: Sequence[str]) -> str:
    """Give the outcomes as a Markdown table, smallest first, those without a rung to ship last."""
    headers = ["experiment", *(override.split("=", 1)[0] for override in overrides)]
    headers += ["chosen", "on target", "bytes", "latency ms"]
    ordered = sorted(outcomes, key=lambda outcome: (outcome.memory_bytes is None, outcome.memory_bytes, outcome.name))
    rows = [
        [
            outcome.name,
            *outcome.values,
            outcome.chosen,
            cell(outcome.value, ".4f"),
            cell(outcome.memory_bytes, ","),
            cell(outcome.latency_ms, ".3f"),
        ]
        for outcome in ordered
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _outcome(name: str, revision: str, keys: Sequence[str]) -> Outcome:
    found = Revision(revision, name)
    entry = found.decision.of(found.decision.chosen) if found.decision else None
    measured = entry.measured if entry else None
    return Outcome(
        name,
        tuple(_value(found.params, key) for key in keys),
        f"{entry.rung} ({entry.precision})" if entry else "none",
        measured.target_value if measured else None,
        measured.memory_bytes if measured else None,
        measured.latency_ms if measured else None,
    )


def _value(params: dict, key: str) -> str:
    value: object = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return str(value)


def _experiments() -> dict[str, str]:
    """Give the revision of every experiment that started from this commit, by name."""
    require("dvc-experiments")
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        found = Repo(".").experiments.ls()
    except NotDvcRepoError:
        raise UserError("no DVC project in this folder; run this in the folder that holds dvc.yaml") from None
    except (DvcException, SCMError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"DVC's experiments need a git repository with a commit in it ({reason})") from None
    return {name: revision for experiments in found.values() for name, revision in experiments}


def _dvc(*words: str) -> int:
    return subprocess.run(["dvc", *words], env={**os.environ, **_environment()}, check=False).returncode


def _environment() -> dict[str, str]:
    """Give what the stages of an experiment see.

    Python's path is relative, so that an experiment imports the code of its own copy; MLflow's store is not, so that
    all of them end up in this folder's.
    """
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"
    return {"PYTHONPATH": "src", "MLFLOW_TRACKING_URI": store}

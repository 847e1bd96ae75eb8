"""`bitladder reproduce REV`: the pipeline of a revision run again from nothing, held against its dvc.lock."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from bitladder.errors import UserError
from bitladder.paths import INSTALLED, LOCK, METRICS
from bitladder.report.diff import diff, format_diff
from bitladder.report.revisions import cached_file, read_revision
from bitladder.running.files import locked_stages, remove_path, write_text
from bitladder.running.git import run_git
from bitladder.running.version import RELEASE, installed

__all__ = ["Difference", "compare_locks", "only_contexts", "other_versions", "reproduce"]


NOT_RUN = {"track", "report"}
"""They have no outputs to compare, and the first would log the revision to MLflow once more."""

QUICK = ("data", "train")
"""Stages whose outputs `--quick` takes from the cache."""

ENCODINGS = "encodings.json"

CONTEXT = "_ctx_qnn.bin"

LISTS = {"manifest.json", "sbom.cdx.json"}
"""A bundle's files that hold the hashes of its others."""

OWN_CACHE = Path(".dvc/own-cache")

Stages = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """A stage whose outputs are not dvc.lock's. `is_origin`: what went into it is, so this is where it starts."""

    stage: str
    files: tuple[str, ...]
    is_origin: bool


def reproduce(name: str, quick: bool, any_environment: bool, say: Callable[[str], None]) -> bool:
    """Run a revision's pipeline in a temporary clone with an empty cache, and say what differs from its dvc.lock.

    Args:
        name: a git revision.
        quick: take data and FP32 weights from this clone's cache, where they are there.
        any_environment: run even where installed versions are not those of the revision's requirements.lock.
        say: is given what was found, line by line.

    Returns: whether all is identical. Raises UserError where the revision cannot be run.

    """
    read = read_revision(name)
    if (named := read.params.get("bitladder")) and named != RELEASE:
        raise UserError(
            f"{name}: written for bitladder {named}, and {RELEASE} is installed; install version"
            f" {str(named).partition('+')[0]} and run this again"
        )
    revision = read.name
    with TemporaryDirectory(prefix="bitladder-") as folder:
        root = _clone(str(revision), Path(folder))
        old = locked_stages(root / LOCK)
        if not old:
            raise UserError(f"{name}: has no dvc.lock with stages in it, so there is nothing to compare with")
        _check_environment(root, name, any_environment, say)
        if dict(read.params.get("compute") or {}).get("device") == "cuda":
            say(f"{name}: was run on a GPU (compute.device: cuda); another kind of GPU may give other bits")
        kept = {stage: old[stage] for stage in QUICK if stage in old} if quick else {}
        _forget(root, old, kept)
        _fill_cache(root, [out for stage in kept.values() for out in stage.get("outs", [])], say)
        _run(root, name)
        new = locked_stages(root / LOCK)
        contexts = _of_the_compiler(root, old, new)
        for path in contexts:
            say(f"{path}: its context binary alone: Qualcomm's compiler leaves bytes of its memory in some")
        found = compare_locks(old, new, contexts)
        compared = sum(len(stage.get("outs", [])) for stage in new.values()) - len(contexts)
        for difference in found:
            where = "from here on" if difference.is_origin else "its inputs differ"
            say(f"{difference.stage}: {', '.join(difference.files)} ({where})")
        if not found:
            say(f"{name}: identical: {compared} outputs of {len(new)} stages are dvc.lock's, bit for bit")
            return True
        outs = [out for stage in old.values() for out in stage.get("outs", [])]
        _fill_cache(root, [out for out in outs if out["path"].endswith(ENCODINGS)], lambda line: None)
        with contextlib.chdir(root):
            say(format_diff(diff(read_revision(str(revision)), read_revision(None)), "text"))
        return False


def compare_locks(old: Stages, new: Stages, passed: Collection[str] = ()) -> list[Difference]:
    """Name the stages whose outputs differ, those first of which no input does; outputs in `passed` may."""
    before = _hashes(old)
    changed = {
        name: tuple(
            out["path"]
            for out in stage.get("outs", [])
            # the link is no result: what matters of the package is in the lists of `sources`
            if before.get(out["path"]) != out["md5"] and out["path"] not in {str(INSTALLED), *passed}
        )
        for name, stage in new.items()
    }
    differing = {path for files in changed.values() for path in files}
    found = []
    for name, files in changed.items():
        inputs = [dep["path"] for dep in new[name].get("deps", [])]
        # A folder that is an input holds outputs of other stages
        inside = any(path == dep or path.startswith(f"{dep}/") for dep in inputs for path in differing)
        if files:
            found.append(Difference(name, files, not inside))
    return sorted(found, key=lambda difference: not difference.is_origin)


def only_contexts(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether of a folder's files, with their hashes, context binaries alone differ, and what lists their hashes.

    Scores of every sample by them lie in the same folder, in a bundle recorded outputs, and are the same then.
    """
    differing = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    contexts = {name for name in differing if name.endswith(CONTEXT)}
    return bool(contexts) and differing - contexts <= LISTS and old.keys() == new.keys()


def _of_the_compiler(root: Path, old: Stages, new: Stages) -> list[str]:
    """Name the folders of which context binaries alone differ; none where the cache here lacks the old list."""
    found, before = [], _hashes(old)
    for path, made in _hashes(new).items():
        kept = before.get(path, made)
        if kept != made and made.endswith(".dir"):
            own = root / OWN_CACHE / "files/md5" / made[:2] / made[2:]
            lists = [_listed(place) for place in (cached_file(kept), own)]
            if all(lists) and only_contexts(*lists):
                found.append(path)
    return found


def _hashes(stages: Stages) -> dict[str, str]:
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def _listed(path: Path | None) -> dict[str, str]:
    """Read DVC's list of a folder's files; empty where there is none."""
    if path is None or not path.is_file():
        return {}
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text("utf-8"))}


def other_versions(lock: str) -> list[str]:
    """Name the packages whose installed version is not the one that a requirements.lock has."""
    found = []
    for name, wanted in re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;#\\]+)", lock):
        own = installed(name)
        if own is not None and own != wanted:
            found.append(f"{name} {own} (recorded: {wanted})")
    return found


def _clone(revision: str, folder: Path) -> Path:
    prefix, top = run_git("rev-parse", "--show-prefix"), run_git("rev-parse", "--show-toplevel")
    run_git("clone", "--quiet", "--no-checkout", top, "clone", folder=folder)
    run_git("checkout", "--quiet", "--detach", revision, folder=folder / "clone")
    return folder / "clone" / prefix


def _check_environment(root: Path, name: str, any_environment: bool, say: Callable[[str], None]) -> None:
    recorded = root / "requirements.lock"
    if not recorded.is_file():
        say(f"{name}: records no versions (requirements.lock); it runs in this environment as it is")
        return
    others = other_versions(recorded.read_text("utf-8"))
    if others and not any_environment:
        raise UserError(
            f"{name} was made with other versions than are installed: {', '.join(others[:4])}"
            f"{f' and {len(others) - 4} more' if len(others) > 4 else ''}; run this from an environment made of its"
            " requirements.lock, or with --any-environment to see what differs"
        )
    say(f"environment: differs: {', '.join(others)}" if others else "environment: the recorded versions")


def _forget(root: Path, old: Stages, kept: Stages) -> None:
    """Leave of dvc.lock, and of outputs that are in git, what is kept: DVC would take the rest as done."""
    for name, stage in old.items():
        for out in stage.get("outs", []) if name not in kept else []:
            remove_path(root / out["path"])
    (root / LOCK).unlink()
    if kept:
        with (root / LOCK).open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump({"schema": "2.0", "stages": dict(kept)}, file)


def _fill_cache(root: Path, outs: list[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    cache = root / OWN_CACHE
    for out in outs:
        if out["path"].startswith(f"{METRICS}/"):
            continue
        source = cached_file(out["md5"])
        if source is None:
            say(f"{out['path']}: not in the cache here, so it is made anew; `dvc fetch` brings it")
            continue
        target = cache / "files/md5" / out["md5"][:2] / out["md5"][2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _run(root: Path, name: str) -> None:
    write_text(root / ".dvc/config.local", f"[cache]\n    dir = {(root / OWN_CACHE).resolve()}\n")
    settings = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    settings["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if (root / "src/bitladder").is_dir():
        settings["PYTHONPATH"] = str(root.resolve() / "src")
    dvc = (sys.executable, "-m", "dvc")
    listed = subprocess.run(
        [*dvc, "stage", "list", "--name-only"], cwd=root, env=settings, capture_output=True, text=True, check=False
    )
    stages = [stage for stage in listed.stdout.split() if stage not in NOT_RUN]
    if listed.returncode or not stages:
        raise UserError(f"{name}: DVC finds no stages in it ({' '.join(listed.stderr.split())[:300]})")
    # What the stages print goes to the terminal as it comes; stdout is for what was found
    if subprocess.run([*dvc, "repro", *stages], cwd=root, env=settings, stdout=sys.stderr, check=False).returncode:
        raise UserError(f"{name}: its pipeline does not run through here; the stage that stopped is named above")

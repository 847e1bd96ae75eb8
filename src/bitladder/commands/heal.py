"""`bitladder heal`: what of dvc.lock, of the outputs and of DVC's cache is damaged.

DVC writes dvc.lock in place after each stage: killed as it does, it refuses what it finds the next time. And it takes a
cache object that is read-only as unchanged, so one that a disk damaged is handed out as if it were whole.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitladder.errors import UserError
from bitladder.paths import GATES, KEPT_LOCK, LOCK, METRICS
from bitladder.running.files import copy_file, damaged_lock, dvc_hash, locked_stages, recorded_outs, remove_path
from bitladder.running.patches import in_force, require

__all__ = ["check_lock", "heal", "heal_lock"]


def check_lock(lock: Path = LOCK) -> None:
    """Raise UserError where DVC would refuse dvc.lock. Where there is none, all is well."""
    if locked_stages(lock) and in_force("dvc-lock"):
        from dvc.schema import COMPILED_LOCKFILE_SCHEMA
        from voluptuous import Invalid

        try:
            COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(lock.read_text("utf-8")))
        except Invalid:
            raise damaged_lock(lock) from None


def heal_lock() -> list[str]:
    """Put a damaged dvc.lock back as it was, and say so. Raise UserError where no copy is left."""
    if _is_whole(LOCK):
        return []
    if not (KEPT_LOCK.is_file() and _is_whole(KEPT_LOCK)):
        raise UserError("dvc.lock: damaged, and no copy is left; take git's: `git checkout dvc.lock`")
    copy_file(KEPT_LOCK, LOCK)
    return ["dvc.lock: damaged; put back as it was when the last stage began"]


def heal() -> list[str]:
    """Put a damaged dvc.lock back as it was; remove damaged cache objects and outputs that are not dvc.lock's.

    Outputs that are in git (metrics, gates) are left: git says what changed in them. So is the link to the package.

    Returns: a line for each. Raises UserError where dvc.lock records nothing, or is damaged without a copy, or where
    DVC is of a version that this was not checked with.
    """
    if healed := heal_lock():
        return healed
    stages = locked_stages()
    if not stages:
        raise UserError("dvc.lock: records no stages; run this in the folder of the pipeline, after `dvc repro`")
    require("dvc-cache")
    from dvc.repo import Repo

    found, cache = [], Repo(".").cache.local
    for name, recorded in recorded_outs(stages).items():
        path = Path(name)
        if path.parts[0] in (METRICS.name, GATES.name) or path.is_symlink():
            continue
        for cached in (one for digest in sorted(recorded) for one in _objects(cache, digest)):
            if dvc_hash(cached) != (cached.parent.name + cached.name).removesuffix(".dir"):
                cached.unlink()
                found.append(f"{path}: its cache object {cached.parent.name}{cached.name} is damaged; removed")
        if path.exists() and dvc_hash(path) not in recorded:
            remove_path(path)
            found.append(f"{path}: is not what dvc.lock says; removed")
    return found


def _is_whole(lock: Path) -> bool:
    try:
        check_lock(lock)
    except UserError:
        return False
    return True


def _objects(cache: Any, recorded: str) -> Iterator[Path]:
    """Give the cache objects of an output that are there: its own, and those of the files in a folder."""
    own = Path(cache.oid_to_path(recorded))
    if not own.exists():
        return
    if recorded.endswith(".dir"):
        try:
            listed = [entry["md5"] for entry in json.loads(own.read_text("utf-8"))]
        except (ValueError, TypeError, KeyError):
            listed = []
        yield from (path for path in (Path(cache.oid_to_path(oid)) for oid in listed) if path.exists())
    yield own

"""`bitladder heal`: what of the outputs, here and in DVC's cache, is not what dvc.lock says.

DVC takes a cache object that is read-only as unchanged, so one that a disk damaged is handed out as if it were whole.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from bitladder.errors import UserError
from bitladder.files import dvc_hash, locked_stages

__all__ = ["heal"]


def heal() -> list[str]:
    """Remove damaged cache objects and the outputs that are not dvc.lock's, and name each.

    Outputs that are in git (metrics, gates) are left: git says what changed in them. Raises UserError where dvc.lock
    records nothing.
    """
    stages = locked_stages()
    if not stages:
        raise UserError("dvc.lock: records no stages; run this in the folder of the pipeline, after `dvc repro`")
    found = []
    for out in (out for stage in stages.values() for out in stage.get("outs", [])):
        path, recorded = Path(out["path"]), str(out["md5"])
        if path.parts[0] in ("metrics", "gates"):
            continue
        for cached in _objects(recorded):
            if dvc_hash(cached) != (cached.parent.name + cached.name).removesuffix(".dir"):
                cached.unlink()
                found.append(f"{path}: its cache object {cached.parent.name}{cached.name} is damaged; removed")
        if path.exists() and dvc_hash(path) != recorded:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            found.append(f"{path}: is not what dvc.lock says; removed")
    return found


def _objects(recorded: str) -> Iterator[Path]:
    """Give the cache objects of an output that are there: its own, and those of the files in a folder."""
    from dvc.repo import Repo

    cache = Repo(".").cache.local
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

"""`bitladder upgrade`: the files of an older version's pipeline brought to the installed one, or nothing changed."""

import difflib
import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from bitladder.commands.init import pipeline_files
from bitladder.commands.merge_params import merge_params
from bitladder.errors import UserError
from bitladder.params import load_params
from bitladder.paths import LOCK, PARAMS
from bitladder.running.files import locked_stages, remove_path, write_text
from bitladder.running.version import RELEASE, version_named

__all__ = ["Upgrade", "plan_upgrade"]

PIPELINE = Path("dvc.yaml")

RENAMED: Mapping[str, str] = {}
"""Keys of params.yaml with other names now, by their old ones."""

VALUES = {
    f"bitladder.tasks.{name}:task": f"bitladder.tasks.builtin.{name}:task"  # since 0.2.0
    for name in ("efficientnet_lite0", "image_folder", "mnist", "sentence_embedding")
}
"""What params.yaml names of bitladder's own, where it has moved."""


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade changes: texts of files by name (None: removed), and the stages that dvc.lock forgets."""

    before: str
    texts: Mapping[str, str | None]
    gone: tuple[str, ...]

    def diff(self) -> str:
        """Give the changes of the files as a unified diff."""
        parts: list[str] = []
        for name, text in self.texts.items():
            old = Path(name).read_text("utf-8") if Path(name).exists() else ""
            sides = (old.splitlines(keepends=True), (text or "").splitlines(keepends=True))
            parts += difflib.unified_diff(*sides, name if old else "/dev/null", name if text else "/dev/null")
        return "".join(parts)

    def write(self) -> None:
        """Change the files. params.yaml, which names the version, comes last: killed before it, this begins anew."""
        for name, text in sorted(self.texts.items(), key=lambda item: item[0] == str(PARAMS)):
            if name == str(PARAMS):
                _forget(self.gone)
            if text is None:
                Path(name).unlink(missing_ok=True)
            else:
                write_text(Path(name), text)


def plan_upgrade() -> Upgrade | None:
    """Find what brings the pipeline in this folder to the installed version; None where it is of that version.

    Raises UserError, in one line, where a change made by hand cannot be merged, or the version is not known.
    """
    own = PARAMS.read_text("utf-8") if PARAMS.is_file() else ""
    named = version_named(own)
    if named is None:
        raise UserError(f"{PARAMS}: names no version under `bitladder:`; run this in a folder that `init` wrote")
    if named == RELEASE:
        return None
    base, new = _base(named), pipeline_files()
    texts: dict[str, str | None] = {str(PARAMS): _merged_params(own, base, new)}
    for name in sorted({*base, *new} - {str(PARAMS), "task.py"}):
        current = Path(name).read_text("utf-8") if Path(name).is_file() else None
        merged = _merged(name, current, base.get(name), new.get(name), named)
        if merged != current:
            texts[name] = merged
    stages = YAML(typ="safe").load(texts.get(str(PIPELINE)) or PIPELINE.read_text("utf-8"))["stages"]
    return Upgrade(named, texts, tuple(name for name in locked_stages() if not _is_defined(name, stages)))


def _base(version: str) -> dict[str, str]:
    """Give the files that a version wrote."""
    kept = files("bitladder").joinpath("template/versions")
    known = sorted(path.name.removesuffix(".json") for path in kept.iterdir() if path.name.endswith(".json"))
    release = version.partition("+")[0]
    if release not in known:
        raise UserError(
            f"{PARAMS}: bitladder: {version}: version {RELEASE} upgrades from {', '.join(known)}; install a later"
            " version, or the one that is named"
        )
    found: dict[str, str] = json.loads(kept.joinpath(f"{release}.json").read_text("utf-8"))
    return found


def _merged_params(own: str, base: Mapping[str, str], new: Mapping[str, str]) -> str:
    text = merge_params(own, base[str(PARAMS)], new[str(PARAMS)], RENAMED, VALUES | {str(version_named(own)): RELEASE})
    with TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS
        path.write_text(text, "utf-8")
        try:
            load_params(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), f"{PARAMS}, brought to {RELEASE}")) from None
    return text


def _merged(name: str, current: str | None, base: str | None, new: str | None, version: str) -> str | None:
    """Merge what the user changed of a file with what this version changes. Raises UserError where both did the same.

    A file that is not there is written; one that this version has no longer is removed.
    """
    if current in (None, base, new):
        return new
    since = f"{name}: changed by hand since version {version}"
    if new is None:
        raise UserError(
            f"{since}, and {RELEASE} has no such file; move your change elsewhere, remove it, run this again"
        )
    if base is None:
        raise UserError(f"{name}: is there, and {RELEASE} has a file of that name; rename yours, and run this again")
    with TemporaryDirectory() as folder:
        sides = [Path(folder) / side for side in ("yours", "base", "new")]
        for path, text in zip(sides, (current, base, new), strict=True):
            path.write_text(text or "", "utf-8")
        words = ["git", "merge-file", "-p", *map(str, sides)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        lines = [line for line in _changed_lines(base, current or "") if line.strip()]
        raise UserError(
            f"{since}, where {RELEASE} changes it too ({lines[0].strip()[:80] if lines else 'lines taken out'}); undo"
            " that change (or remove the file: it is written anew), run this again, and make the change in the new file"
        )
    return done.stdout


def _changed_lines(old: str, new: str) -> list[str]:
    return [line[2:] for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line.startswith("+ ")]


def _is_defined(name: str, stages: Mapping[str, Any]) -> bool:
    """Whether a stage of dvc.lock is one of dvc.yaml: `ptq@tiny` of one for each rung, `data` of one alone."""
    stage, at, _ = name.partition("@")
    return stage in stages and bool(at) == any(key in stages[stage] for key in ("foreach", "matrix"))


def _forget(gone: tuple[str, ...]) -> None:
    """Take stages that are no more out of dvc.lock, and their outputs away: others depend on whole folders."""
    if not gone:
        return
    yaml = YAML()
    yaml.width = 4096
    with LOCK.open(encoding="utf-8") as file:
        lock = yaml.load(file)
    left = {name: stage for name, stage in lock["stages"].items() if name not in gone}
    still = {out["path"] for stage in left.values() for out in stage.get("outs", ())}
    for out in (out for name in gone for out in lock["stages"][name].get("outs", ())):
        if out["path"] not in still:
            remove_path(Path(out["path"]))
            with suppress(OSError):  # other files are in it
                Path(out["path"]).parent.rmdir()
    for name in gone:
        del lock["stages"][name]
    with TemporaryDirectory() as folder:
        path = Path(folder) / LOCK
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(lock, file)
        write_text(LOCK, path.read_text("utf-8"))

"""Reading and writing what passes between stages: JSON and safetensors, whole or not at all."""

import csv
import glob
import hashlib
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML, YAMLError

from bitladder.errors import UserError
from bitladder.paths import LOCK

if TYPE_CHECKING:
    import torch

__all__ = [
    "copy_file",
    "damaged_lock",
    "dvc_hash",
    "hash_path",
    "is_running",
    "load_note",
    "load_tensors",
    "locked_stages",
    "read_json",
    "recorded_outs",
    "remove_path",
    "replacing",
    "save_tensors",
    "write_csv",
    "write_json",
    "write_text",
    "write_yaml",
]

DIGITS = 6  # of floats in metrics files

NOTE = "bitladder"
"""The key of a note in a safetensors file's metadata."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there takes its place only if all went well.

    What a killed process left of the same file goes: later stages depend on whole folders.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        pid = left.name.rpartition(".")[2]
        if pid.isdecimal() and not is_running(int(pid)):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether there is a process of this number on this machine; on Windows, which does not say, yes."""
    if sys.platform == "win32":  # there signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, value: Mapping[str, Any], exact: bool = False) -> None:
    """Write JSON as a diff wants it: keys in the order given, one a line, floats rounded unless `exact`."""
    text = json.dumps(value if exact else _rounded(value), indent=2, allow_nan=False)
    write_text(path, text + "\n")


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, an item a line."""
    text = io.StringIO()
    YAML().dump(dict(value), text)
    write_text(path, text.getvalue())


def copy_file(source: Path, path: Path) -> None:
    """Copy a file, whole or not at all."""
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def hash_path(path: Path) -> str:
    """Hash a file, or all files of a folder with their names, with SHA-256. Raise UserError if there is nothing."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; task.files in params.yaml names it")
    digest = hashlib.sha256()
    for inner in sorted(path.rglob("*")):
        if inner.is_file() and "__pycache__" not in inner.parts:
            digest.update(f"{inner.relative_to(path).as_posix()}:{hash_path(inner)};".encode())
    return digest.hexdigest()


def dvc_hash(path: Path) -> str:
    """Hash a file or a folder as dvc.lock does, with MD5; a folder's hash ends with `.dir`."""
    if path.is_dir():
        files = sorted((inner.relative_to(path).as_posix(), inner) for inner in path.rglob("*") if inner.is_file())
        listed = json.dumps([{"md5": dvc_hash(inner), "relpath": name} for name, inner in files], sort_keys=True)
        return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def locked_stages(lock: Path = LOCK) -> dict[str, Any]:
    """Give the stages that dvc.lock records, by name; none where there is no such file.

    Raises UserError where it is damaged.
    """
    if not lock.is_file():
        return {}
    try:
        stages = dict((YAML(typ="safe").load(lock.read_text("utf-8")) or {}).get("stages") or {})
        whole = all(stage["cmd"] and all(out["md5"] for out in stage.get("outs", [])) for stage in stages.values())
    except (YAMLError, AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise damaged_lock(lock)
    return stages


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def recorded_outs(stages: Mapping[str, Any]) -> dict[str, set[str]]:
    """Give the hashes that dvc.lock records of each output: several, where a stage that is no more made it before."""
    found: dict[str, set[str]] = {}
    for out in (out for stage in stages.values() for out in stage.get("outs", [])):
        found.setdefault(out["path"], set()).add(str(out["md5"]))
    return found


def damaged_lock(lock: Path) -> UserError:
    """Give the error for a dvc.lock that is not as DVC writes it."""
    return UserError(f"{lock}: damaged, as DVC leaves it when it is killed; run `bitladder heal`")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write these columns of each row as CSV, floats rounded; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rounded(row) for row in rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file. Raise UserError if it is missing or damaged."""
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro`") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None
    return value


def save_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"], note: str | None = None) -> None:
    """Write named tensors as safetensors, in order of their names, so that the same values give the same bytes."""
    from safetensors.torch import save_file

    # one key: safetensors writes several in any order
    metadata = None if note is None else {NOTE: note}

    with replacing(path) as temporary:
        # clone: safetensors refuses tensors that share memory
        save_file({name: tensors[name].detach().clone().contiguous() for name in sorted(tensors)}, temporary, metadata)


def load_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    """Read named tensors. Raise UserError if the file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro`") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None


def load_note(path: Path) -> str | None:
    """Read the note that a file of tensors was saved with. For a file that `load_tensors` has read."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {}).get(NOTE)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return _rounded_float(value)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _rounded_float(value: float) -> float:
    """Round to 6 decimals, or to 6 digits where that is finer: of an error of 1e-9, too, something must be left."""
    if not value or not math.isfinite(value):
        return value
    return round(value, max(DIGITS, DIGITS - 1 - math.floor(math.log10(abs(value)))))

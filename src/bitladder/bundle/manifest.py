"""deploy/manifest.json: what the bundle holds, hashed file by file and over itself. It may come from anywhere.

It names no git revision and no hash of dvc.lock: dvc.lock holds the hash of the bundle, so a bundle that held
dvc.lock's could not exist, and one that named its commit would differ from commit to commit. `bitladder ship` writes
them beside it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bitladder.errors import UserError
from bitladder.running.files import hash_path, write_text

__all__ = ["MANIFEST", "Chip", "Manifest", "Recorded", "changed_files", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"

FORMAT = 1

SEAL = "manifest_sha256"
"""The key that holds the hash of the manifest without this key."""

LARGEST = 64 << 20  # bytes; a manifest is some 10 kB

LONGEST = 255  # bytes of a file's name, on the usual file systems


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or path.as_posix() != name:
        raise ValueError("must be a path inside of the bundle")
    if any(len(part.encode("utf-8", "surrogatepass")) > LONGEST for part in path.parts):
        raise ValueError("is longer than a file's name can be")
    return name


Inside = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Entry(_Block):
    """One file."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


class Chip(_Block):
    """What is compiled for one SoC; `context` wraps the context binary, None where the emulator cannot load it."""

    soc_model: Annotated[int, Field(ge=0)]
    arch: str
    qairt: str | None
    context: Inside | None
    answers: Inside | None
    value: Annotated[float, Field(allow_inf_nan=False)] | None
    reason: str | None


class Recorded(_Block):
    """The samples that `bitladder verify` and the runner repeat: their files, how many, the metric of the outputs.

    Targets that are no tensor are not recorded.
    """

    file: Inside
    targets: Inside | None
    samples: Annotated[int, Field(ge=1)]
    metric: str


class Manifest(_Block):
    """What deploy/ holds. Where no rung meets the goals, `rung` is None and all but the reason is empty."""

    format: Literal[1]
    rung: str | None
    reason: str
    precision: str | None
    technique: str | None
    socs: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Chip]
    recorded: Recorded | None
    metrics: dict[str, dict[str, Any]]
    sources: dict[str, str]
    params: dict[str, Any]
    task: dict[str, Any]
    data: dict[str, Digest]
    versions: dict[str, str | None]
    files: dict[Inside, Entry]
    manifest_sha256: Digest


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write manifest.json over all files that lie in `folder`; `values` gives what is not read from them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"sha256": hash_path(path), "bytes": path.stat().st_size} for path in paths
    }
    content = {"format": FORMAT, **values, "files": entries}
    content[SEAL] = _seal(content)
    Manifest.model_validate(content)
    write_text(folder / MANIFEST, _text(content))


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json. Raise UserError, in one line, where a byte of it is not as it was written."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: is larger than any manifest; it is not bitladder's")
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        same = isinstance(content, dict) and text == _text(content)
        seal = content.pop(SEAL, None) if isinstance(content, dict) else None
        same = same and seal == _seal(content)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; a bundle, which `dvc repro bundle` writes, has one") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({_first_line(error)}); {HEAL}") from None
    if not same:
        raise UserError(f"{path}: changed since it was written; {HEAL}")
    try:
        return Manifest.model_validate({**content, SEAL: seal})
    except (ValidationError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest that this bitladder reads ({_first_line(error)})") from None


HEAL = "take the bundle from where it came again, or run `dvc repro bundle` in its project"


def changed_files(folder: Path, manifest: Manifest) -> list[str]:
    """Say of each file what is not as the manifest has it: missing, changed, no plain file, or not listed."""
    found = []
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.exists() and not path.is_symlink():
            found.append(f"{name}: missing")
        elif path.is_symlink() or not path.is_file():
            found.append(f"{name}: is no plain file")
        elif path.stat().st_size != entry.bytes:
            found.append(f"{name}: has {path.stat().st_size} bytes, and had {entry.bytes}")
        elif hash_path(path) != entry.sha256:
            found.append(f"{name}: changed; its SHA-256 is not the manifest's")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and name not in manifest.files and name != MANIFEST:
            found.append(f"{name}: is not in the manifest")
    return found


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(content).encode()).hexdigest()


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return " ".join(f"{'.'.join(map(str, first['loc']))}: {first['msg']}".split())[:300]
    return " ".join(str(error).split())[:300]

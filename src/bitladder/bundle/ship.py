"""`bitladder ship`: deploy/ as one archive, with the commit that it came from.

The commit is not in deploy/ itself: dvc.lock, which is in the commit, holds the hash of deploy/. provenance.json
beside it ties the two: revision and dvc.lock's hash on one side, the manifest's hash on the other.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitladder.bundle.manifest import MANIFEST, Manifest, changed_files, read_manifest
from bitladder.errors import UserError
from bitladder.paths import DEPLOY, RungFiles
from bitladder.records import TargetRecord, parse_record
from bitladder.running.files import LOCK, hash_path, replacing
from bitladder.running.git import run_git

__all__ = ["MeasuredBy", "Provenance", "read_provenance", "ship"]

PROVENANCE = "provenance.json"


class MeasuredBy(BaseModel):
    """What a SoC's figures come from: who measured (ssh, adb, ai-hub, an emulator), and on which device, if any."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    soc: str
    by: str
    qairt: str | None
    device: str | None
    governor: str | None


class Provenance(BaseModel):
    """Which commit a bundle came from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    git_revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    dvc_lock_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    manifest_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    measured: Annotated[tuple[MeasuredBy, ...], Field(strict=False)] = ()


def ship(folder: Path, output: Path | None) -> Path:
    """Pack a bundle with its provenance; the same commit gives the same bytes.

    Raises UserError where the bundle has changed, or the work tree is not what its commit says: then nothing could be
    reproduced from it.
    """
    manifest = read_manifest(folder)
    if changed := changed_files(folder, manifest):
        raise UserError(f"{folder / changed[0]}; run `dvc repro bundle`")
    if manifest.rung is None:
        raise UserError(f"{folder} ships nothing: {manifest.reason}")
    if run_git("status", "--porcelain", "--untracked-files=no"):
        raise UserError("the work tree differs from its commit; commit params.yaml, dvc.lock and metrics/ first")
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True, check=False
    )
    if status.returncode or json.loads(status.stdout or "{}"):
        raise UserError("the pipeline is not up to date with dvc.lock (`dvc status` says where); run `dvc repro`")
    revision = run_git("rev-parse", "HEAD")
    provenance = Provenance(
        git_revision=revision,
        dvc_lock_sha256=hash_path(LOCK),
        manifest_sha256=hash_path(folder / MANIFEST),
        measured=_measured(manifest, manifest.rung),
    )
    output = output or Path(f"{manifest.rung}-{revision[:10]}.tar")
    with replacing(output) as temporary, tarfile.open(temporary, "w:", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, PROVENANCE, (provenance.model_dump_json(indent=2) + "\n").encode())
        for name in sorted([MANIFEST, *manifest.files]):
            _add(archive, f"{DEPLOY}/{name}", (folder / name).read_bytes())
    return output


def read_provenance(folder: Path) -> Provenance:
    """Read the provenance of an unpacked archive. Raise UserError where it is damaged or is another bundle's."""
    try:
        text = (folder / PROVENANCE).read_bytes()
        found = Provenance.model_validate_json(text)
    except (OSError, ValidationError):
        raise UserError(f"{PROVENANCE}: missing or damaged; take the archive from where it came again") from None
    manifest = folder / "deploy" / MANIFEST
    if not manifest.is_file() or hashlib.sha256(manifest.read_bytes()).hexdigest() != found.manifest_sha256:
        raise UserError(f"{PROVENANCE}: is of another bundle than the one beside it")
    return found


def _measured(manifest: Manifest, rung: str) -> tuple[MeasuredBy, ...]:
    """Say of each SoC what its figures come from."""
    path = RungFiles(rung).on_target
    record = parse_record(TargetRecord, json.dumps(manifest.metrics[path.as_posix()]), str(path))
    return tuple(
        MeasuredBy(
            soc=one.soc,
            by=one.ran_by,
            qairt=one.device.qairt if one.device else manifest.socs[one.soc].qairt,
            device=one.device.name if one.device else None,
            governor=one.device.governor if one.device else None,
        )
        for one in (record, *record.socs.values())
        if one.soc in manifest.socs
    )


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))

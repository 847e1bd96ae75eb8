"""What keeps a bundle from running on a device, asked before it is tried."""

import subprocess
import sys
from pathlib import Path

from bitladder.bundle.manifest import read_manifest
from bitladder.errors import UserError
from bitladder.targets import runner
from bitladder.targets.host import Host, findings_of, words_of
from bitladder.targets.phone_check import check_phone
from bitladder.targets.remote import MODEL
from bitladder.targets.runner import Finding, Model

__all__ = ["look", "look_by_adb"]


def look(bundle: Path | None, host: str | None, python: str, soc: str | None) -> list[Finding]:
    """Run the runner's check, here or on a device.

    Args:
        bundle: the folder of a bundle; None looks at the device alone.
        host: as OpenSSH takes it; None is this machine.
        python: the device's.
        soc: one of the bundle's; None takes the first.

    Returns: the findings. Raises UserError where the bundle is none, or the device cannot be asked.

    """
    files, model = _model_of(bundle, soc) if bundle else ({}, None)
    if host:
        device = Host(host, python)
        with device.folder(files) as folder:
            return device.check(folder, model)
    here = model._replace(context=str(files[model.context])) if model else None
    # -P: the runner's own folder, among bitladder's modules, is no place to import from
    words = [sys.executable, "-P", runner.__file__, "--check", "--json", *words_of(here)]
    return findings_of(subprocess.run(words, capture_output=True, check=False), str(bundle or "this machine"))


def look_by_adb(bundle: Path | None, serial: str | None, qairt: str | None, soc: str | None) -> list[Finding]:
    """Look at a phone, and have it run a bundle's model once. The SDK is `qairt`, or the environment's."""
    files, model = _model_of(bundle, soc) if bundle else ({}, None)
    return check_phone(serial, qairt, model, next((path for path in files.values() if path.suffix == ".bin"), None))


def _model_of(bundle: Path, soc: str | None) -> tuple[dict[str, Path], Model]:
    """Give the files of a bundle's model by name, and what it is."""
    manifest = read_manifest(bundle)
    name = soc or next(iter(manifest.socs), "")
    chip = manifest.socs.get(name)
    if chip is None or chip.context is None:
        has = ", ".join(manifest.socs) or "none"
        raise UserError(
            f"{bundle}: has no context binary for {name or 'a SoC'} that onnxruntime-qnn loads; it has {has}"
        )
    context = bundle / chip.context
    files = {path.name: path for path in sorted(context.parent.iterdir()) if path.suffix in MODEL}
    return files, Model(context.name, manifest.precision == "FP16", name, chip.soc_model, chip.arch)

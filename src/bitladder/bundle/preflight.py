"""What keeps a bundle from running on a device, asked before it is tried."""

import subprocess
import sys
from pathlib import Path

from bitladder.bundle.manifest import read_manifest
from bitladder.errors import UserError
from bitladder.targets import runner
from bitladder.targets.host import MODEL, Host, findings_of
from bitladder.targets.runner import Finding

__all__ = ["look"]


def look(bundle: Path | None, host: str | None, python: str, soc: str | None) -> list[Finding]:
    """Run the runner's check, here or on a device.

    Args:
        bundle: the folder of a bundle; None looks at the device alone.
        host: as OpenSSH takes it; None is this machine.
        python: the device's.
        soc: one of the bundle's; None takes the first.

    Returns: the findings. Raises UserError where the bundle is none, or the device cannot be asked.

    """
    files, arguments = _model_of(bundle, soc) if bundle else ({}, [])
    if host:
        device = Host(host, python)
        with device.folder(files) as folder:
            return device.check(folder, arguments)
    here = [str(files[word]) if word in files else word for word in arguments]
    # -P: the runner's own folder, among bitladder's modules, is no place to import from
    words = [sys.executable, "-P", runner.__file__, "--check", "--json", *here]
    return findings_of(subprocess.run(words, capture_output=True, check=False), str(bundle or "this machine"))


def _model_of(bundle: Path, soc: str | None) -> tuple[dict[str, Path], list[str]]:
    """Give the files of a bundle's model by name, and the words that name it to the runner."""
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
    words = ["--context", context.name, "--soc-model", str(chip.soc_model), "--soc", name]
    return files, [*words, *(["--fp16"] if manifest.precision == "FP16" else [])]

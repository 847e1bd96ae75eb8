"""What keeps a bundle from running on a device, asked before it is tried."""

import json
import subprocess
import sys
from pathlib import Path

from bitladder.bundle.manifest import read_manifest
from bitladder.errors import UserError
from bitladder.targets import runner
from bitladder.targets.host import Host
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
        with Host(host, python).folder(files) as folder:
            found: list[Finding] = Host(host, python).check(folder, arguments)["findings"]
            return found
    here = [str(files[word]) if word in files else word for word in arguments]
    words = [sys.executable, runner.__file__, "--check", "--json", *here]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])["findings"]
    except (ValueError, IndexError):
        last = done.stderr.strip().rpartition("\n")[2]
        raise UserError(
            f"{bundle or 'this machine'}: the check fails: {last or f'exit code {done.returncode}'}"
        ) from None
    return found


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
    files = {path.name: path for path in sorted(context.parent.iterdir()) if path.is_file()}
    words = ["--context", context.name, "--soc-model", str(chip.soc_model), "--soc", name]
    return files, [*words, *(["--fp16"] if manifest.precision == "FP16" else [])]

"""What every stage's script does around its own work: pinning, timing, and errors as one line."""

import gc
import os
import sys
import time
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitladder.errors import UserError
from bitladder.paths import BUILD, KEPT_LOCK, LOCK, PACKAGE, TIMINGS
from bitladder.running import forkclient

if TYPE_CHECKING:
    from bitladder.params import Params

__all__ = ["LIBRARIES", "run"]

LIBRARIES = r"(aimet_torch|aimet_onnx|torch|onnx)\..*"
"""Whose warnings are theirs: deprecations that they report of each other."""


def run(module: str, torch: bool = False) -> None:
    """Call a module's `main(params, *arguments)` with params.yaml and the words of the command line.

    Any error becomes one line and exit code 1; the traceback of one that is no UserError goes to build/notes.

    Args:
        module: what the stage does, such as `bitladder.stages.ptq`; it is imported once the bits are pinned.
        torch: whether that needs torch: it is then done in a fork of the process that has loaded it, if one can be had.

    """
    stage = os.environ.get("DVC_STAGE") or "@".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
    interrupted = f"{stage}: interrupted; `dvc repro` goes on from here"
    try:
        if torch and (code := forkclient.run_script(sys.argv[0], sys.argv[1:])) is not None:
            sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(interrupted)
    from bitladder.running import determinism
    from bitladder.running.explain import explain, keep_text
    from bitladder.running.files import write_json
    from bitladder.running.version import load_own_params

    start = time.perf_counter()
    # Python puts the script's folder first, where profile.py would hide the standard library's module
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(sys.argv[0]).resolve().parent]
    try:
        _check_own_code()
        params = load_own_params()
        _check_rung(params, sys.argv[1:])
        _check_inputs(["python", *sys.argv])
        determinism.pin(params.compute.threads, params.compute.device)
        # Deprecations that libraries report of each other; the user's own code keeps its warnings
        warnings.filterwarnings("ignore", module=LIBRARIES)
        if torch:
            determinism.check_device(params.compute.device)
        import_module(module).main(params, *sys.argv[1:])
        write_json(TIMINGS / f"{stage}.json", {"seconds": round(time.perf_counter() - start, 1)})
    except UserError as error:
        sys.exit(f"{stage}: {error}")
    except KeyboardInterrupt:
        sys.exit(interrupted)
    except Exception as error:  # any kind: libraries raise them of the user's network, and the system of its files
        sys.exit(f"{stage}: {explain(error)}{keep_text(error, stage)}")
    # or Python, before it ends, looks for cycles among all the objects of torch and AIMET: a second
    gc.freeze()
    gc.disable()


def _check_own_code() -> None:
    """Refuse to run another clone's code, which DVC has not hashed: an environment may be shared between clones."""
    own, used = Path("src/bitladder").resolve(), PACKAGE
    if own.is_dir() and own != used:
        raise UserError(f"bitladder is imported from {used}, not from this folder; run make, or set PYTHONPATH=src")


def _check_inputs(command: list[str]) -> None:
    """Refuse inputs that are not what dvc.lock says of them: DVC hands out a damaged cache object without a look.

    The stages that made them have just been written to dvc.lock, if they ran.
    """
    from bitladder.running.files import copy_file, dvc_hash, locked_stages, recorded_outs

    stages = locked_stages()
    if LOCK.is_file():
        copy_file(LOCK, KEPT_LOCK)
    own: Mapping[str, Any] = next((stage for stage in stages.values() if stage["cmd"] == " ".join(command)), {})
    read = [dep["path"] for dep in own.get("deps", []) if dep["path"].startswith(f"{BUILD}/")]
    for path, recorded in recorded_outs(stages).items():
        is_read = any(path == one or path.startswith(f"{one}/") for one in read)
        if is_read and Path(path).exists() and dvc_hash(Path(path)) not in recorded:
            raise UserError(
                f"{path}: is not what dvc.lock says; run `bitladder heal`, which says why, then `dvc repro`"
            )


def _check_rung(params: "Params", arguments: list[str]) -> None:
    for rung in arguments:
        if rung not in {"fp16", *params.ladder, *params.task.files}:
            raise UserError(f"params.yaml has no rung {rung!r} under ladder")

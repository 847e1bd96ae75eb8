"""What every stage script does around its own work: pinning, timing, and errors as one line."""

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import bitladder
from bitladder import determinism
from bitladder.errors import UserError
from bitladder.files import write_json
from bitladder.params import Params, load_params
from bitladder.version import check_version

__all__ = ["LIBRARIES", "TIMINGS", "run"]

LIBRARIES = r"(aimet_torch|aimet_onnx|torch|onnx)\..*"
"""Whose warnings are theirs: deprecations that they report of each other."""

TIMINGS = Path("build/timings")
"""A file a stage, with the seconds it took last. Not an output: seconds are not reproducible."""


def run(main: Callable[..., None]) -> None:
    """Call a stage's `main(params, *arguments)` with params.yaml and the words of the command line.

    A UserError becomes one line and exit code 1; any other error is ours, and keeps its traceback.
    """
    start = time.perf_counter()
    # Python puts the script's folder first, where profile.py would hide the standard library's module
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(sys.argv[0]).resolve().parent]
    stage = "@".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
    try:
        _check_own_code()
        params: Params = load_params()
        check_version(params)
        _check_rung(params, sys.argv[1:])
        determinism.pin(params.compute.threads)
        # Deprecations that libraries report of each other; the user's own code keeps its warnings
        warnings.filterwarnings("ignore", module=LIBRARIES)
        main(params, *sys.argv[1:])
    except UserError as error:
        sys.exit(f"{stage}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{stage}: interrupted; `dvc repro` goes on from here")
    write_json(TIMINGS / f"{stage}.json", {"seconds": round(time.perf_counter() - start, 1)})


def _check_own_code() -> None:
    """Refuse to run another clone's code, which DVC has not hashed: an environment may be shared between clones."""
    own, used = Path("src/bitladder").resolve(), Path(bitladder.__file__).parent
    if own.is_dir() and own != used:
        raise UserError(f"bitladder is imported from {used}, not from this folder; run make, or set PYTHONPATH=src")


def _check_rung(params: Params, arguments: list[str]) -> None:
    for rung in arguments:
        if rung not in {"fp16", *params.ladder, *params.task.files}:
            raise UserError(f"params.yaml has no rung {rung!r} under ladder")

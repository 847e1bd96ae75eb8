"""`bitladder check --task`: the task taken through every step on a few samples, to say what would be refused."""

import copy
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from bitladder.params import Params
from bitladder.running import determinism
from bitladder.running.stage import LIBRARIES

__all__ = ["check_task"]

FEW = 8  # samples


def check_task(params: Params) -> Iterator[str]:
    """Try the task, prepare the network, and take FP16 and every rung through what `dvc repro` does, on a few samples.

    Gives a line as each step ends. Raises UserError, with the layer's name and what to change, at the first that fails
    of the task, and at the end where a rung would be refused.
    """
    determinism.pin(params.compute.threads, params.compute.device)
    warnings.filterwarnings("ignore", module=LIBRARIES)
    from bitladder.commands.check_rungs import Setting, try_rungs
    from bitladder.network.evaluate import predict, sqnr_db
    from bitladder.network.model import sample_inputs
    from bitladder.network.smoke_test import try_task
    from bitladder.quantize.prepare.prepare import check_equal, prepare
    from bitladder.quantize.trial import divide
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.onnx_model import check_hashed
    from bitladder.tasks.samples import in_memory
    from bitladder.tasks.splits import check_repeats, make_splits
    from bitladder.tasks.streamed import Streamed
    from bitladder.tasks.task import load_task

    determinism.check_device(params.compute.device)
    start = time.perf_counter()

    def good(step: str, found: str) -> str:
        return f"  {step:<10} {found} ({time.perf_counter() - start:.0f} s)"

    seed_all(params.seed)
    read = _listen()
    task = load_task(params.task.factory, params.task.args)
    splits = make_splits(task, params.seed)
    for split in splits.values():
        if isinstance(split, Streamed):
            check_repeats(split)
    model = try_task(task, splits)
    check_hashed(model, params.task)
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    for rung in params.rungs():
        divide(splits["calibration"], params, rung)  # says so where too few are left
    yield good("task", f"model, loss and metric run; samples: {sizes}")
    if unlisted := [name for name in sorted(read) if not params.task.names(Path(name))]:
        named = ", ".join(unlisted[:5])
        yield f"  warning    the task reads {named}; name that under task.files, or edits of it go unnoticed"
    few = in_memory(splits["calibration"].first(FEW))
    expected = predict(model, few, FEW, "fp32")
    as_it_came = copy.deepcopy(model)
    prepared, preparation = prepare(model, sample_inputs(few), params.prepare.exclude, task.quantization)
    check_equal(sqnr_db(expected, predict(prepared, few, FEW, "prepared")))
    yield good("prepare", f"{preparation}; outputs as before")
    for step, found in try_rungs(Setting(params, task, as_it_came, prepared, few, expected)):
        yield good(step, found)


def _listen() -> set[str]:
    """Collect the files of this folder that are opened from now on: what a task reads, changes its results."""
    found: set[str] = set()
    here = Path.cwd()

    def hear(event: str, arguments: tuple) -> None:
        if event != "open" or not isinstance(arguments[0], str | Path):
            return
        path = Path(arguments[0])
        inside = path.relative_to(here) if path.is_relative_to(here) else path
        if not inside.is_absolute() and _is_own(inside) and isinstance(arguments[1], str) and "r" in arguments[1]:
            found.add(inside.as_posix())

    sys.addaudithook(hear)
    return found


def _is_own(path: Path) -> bool:
    parts = set(path.parts)
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and not parts & {"site-packages", "__pycache__", "build", "src"} and path.suffix != ".pyc"

"""`bitladder check --task`: the task taken through every step on a few samples, to say what will and will not work."""

import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bitladder.errors import UserError
from bitladder.params import Params
from bitladder.running import determinism
from bitladder.running.stage import LIBRARIES

__all__ = ["check_task"]

FEW = 8  # samples


def check_task(params: Params) -> Iterator[str]:
    """Build the task, try loss and metric, prepare the model, export and compile a throwaway W8A8 for the SoC.

    Gives a line as each step ends. Raises UserError, with the layer's name and what to change, at the first that fails.
    """
    determinism.pin(params.compute.threads)
    warnings.filterwarnings("ignore", module=LIBRARIES)
    from bitladder.export.checks import check_bias_scales, graph_names, run_unoptimised
    from bitladder.export.float_tensors import check_float, find_float
    from bitladder.export.fp16 import HalfPrecision
    from bitladder.network.evaluate import predict, sqnr_db
    from bitladder.network.model import output_names, sample_inputs
    from bitladder.network.smoke_test import try_task
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import check_equal, prepare
    from bitladder.quantize.ptq import divide
    from bitladder.quantize.sim.torch_sim import build_sim, calibrate, export_qdq
    from bitladder.running.determinism import seed_all
    from bitladder.targets.context import compile_model, run
    from bitladder.tasks.onnx_model import check_hashed
    from bitladder.tasks.task import load_task, make_splits

    start = time.perf_counter()

    def good(step: str, found: str) -> str:
        return f"  {step:<10} {found} ({time.perf_counter() - start:.0f} s)"

    seed_all(params.seed)
    read = _listen()
    task = load_task(params.task.factory, params.task.args)
    splits = make_splits(task, params.seed)
    model = try_task(task, splits)
    check_hashed(model, params.task)
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    for rung in params.rungs():
        divide(splits["calibration"], params, rung)  # says so where too few are left
    yield good("task", f"model, loss and metric run; samples: {sizes}")
    if unlisted := [name for name in sorted(read) if not params.task.names(Path(name))]:
        named = ", ".join(unlisted[:5])
        yield f"  warning    the task reads {named}; name that under task.files, or edits of it go unnoticed"
    few = splits["calibration"].first(FEW)
    sample, expected = sample_inputs(few), predict(model, few, FEW, "fp32")
    yield good("fp16", f"{sqnr_db(expected, predict(HalfPrecision(model), few, FEW, 'fp16')):.1f} dB against FP32")
    prepared, preparation = prepare(model, sample, params.prepare.exclude, task.quantization)
    check_equal(predict(prepared, few, FEW, "prepared"), expected)
    yield good("prepare", f"{preparation}; outputs as before")
    bits = Precision(8, 8)
    sim = build_sim(prepared, sample, bits, params.soc.quantsim_config)
    calibrate(sim, few, FEW)
    simulated = predict(sim.model, few, FEW, "sim")
    yield good(str(bits), f"{sqnr_db(expected, simulated):.1f} dB against FP32")
    with TemporaryDirectory() as folder:
        path, one = Path(folder) / "model.onnx", few.first(1)
        export_qdq(sim, sample, graph_names(list(few.inputs), list(output_names(prepared) or ())), path)
        check_bias_scales(path)
        in_float = find_float(path)
        check_float(in_float, params.export.allow_float, f"the task at {bits}")
        first = {name: values[:1] for name, values in simulated.items()}
        yield good("export", f"{sqnr_db(first, run_unoptimised(path, one)):.1f} dB against the QuantSim")
        yield good("float", f"{in_float.share}: {in_float}" if in_float.tensors else "every tensor has its quantizer")
        (work := Path(folder) / "work").mkdir()
        settings = params.target
        try:
            compiled = compile_model(path, Path(folder) / "target", params.soc, False, settings.compile_limit_s, work)
            outputs = run(compiled, params.soc, False, one, settings, work)
        except UserError as error:
            raise UserError(str(error).replace(str(path), f"the task at {bits}")) from None
        yield good(
            "target",
            f"{compiled.ops_npu} ops, all on the NPU of {settings.soc}, {compiled.memory_bytes:,} bytes;"
            f" {sqnr_db(first, outputs):.1f} dB against the QuantSim",
        )
        shutil.rmtree(work)


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

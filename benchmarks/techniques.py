"""What each PTQ technique comes to on EfficientNet-Lite0, at W8A8 and W4A8: agreement with FP32, SQNR and seconds.

    python benchmarks/techniques.py DIR [--only gptq ...]

DIR is the clone that `benchmarks/efficientnet.py` made; if there is none, it is made and run up to its baseline. Each
row is put on min-max ranges alone (but for `sqnr`, which finds ranges of its own), fitted to the same 100 calibration
crops, and judged on the 200 held-out ones, in QuantSim. A technique that can do nothing says why.
"""

import argparse
import os
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from bitladder import determinism

BITS = ((8, 8), (4, 8))


def main() -> None:
    """Print a row a technique."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of techniques")
    given = parser.parse_args()

    from efficientnet import CHANGES, Clone, make_clone

    clone = Clone(given.folder) if (given.folder / "dvc.yaml").exists() else make_clone(given.folder, CHANGES)
    done = clone.repro("baseline")
    if done.code:
        raise SystemExit(done.text[-2000:])
    os.chdir(given.folder)
    measure(given.only)


def measure(only: list[str]) -> None:
    """Quantize the baseline of the pipeline in this folder by each technique."""
    from bitladder.params import load_params

    params = load_params(Path("params.yaml"))
    determinism.pin(params.compute.threads)
    warnings.filterwarnings("ignore")

    from bitladder.evaluate import compare, predict
    from bitladder.model import load_split, sample_inputs
    from bitladder.precision import Precision
    from bitladder.quantize.prepare import load_prepared, load_unfolded
    from bitladder.quantize.ptq import BASELINE, TRAINED
    from bitladder.quantize.techniques import ORDER, RANGES, Idle, Setting, apply
    from bitladder.tasks.task import load_task

    task = load_task(params.task.factory, params.task.args)
    calibration, evaluation = (
        load_split(Path(f"build/data/{name}.safetensors")) for name in ("calibration", "evaluation")
    )
    sample, batch = sample_inputs(calibration), params.evaluate.batch_size
    model = load_prepared(task, sample, BASELINE, params.prepare.exclude)
    reference = predict(model, evaluation, batch, "fp32")

    print("| technique | bits | agreement with FP32, % | SQNR, dB | s |\n" + "|---" * 5 + "|")
    for name in only or ORDER:
        for bits in BITS:
            precision = Precision(*bits)
            with TemporaryDirectory() as work:
                setting = Setting(
                    model=model,
                    unfolded=lambda: load_unfolded(task, sample, TRAINED, BASELINE, params.prepare.exclude),
                    sample=sample,
                    fit=calibration.first(params.ptq.samples),
                    precision=precision,
                    config=params.soc.quantsim_config,
                    params=params.ptq,
                    seed=params.seed,
                    work=Path(work),
                )
                start = time.perf_counter()
                try:
                    found = apply(name, setting, None if name in RANGES else apply("min-max", setting, None))
                except Idle as reason:
                    print(f"| {name} | {precision} | - | - | {reason} |", flush=True)
                    continue
                seconds = time.perf_counter() - start
            figures = compare(
                task.metric, predict(found.sim.model, evaluation, batch, name), reference, evaluation.targets
            )
            print(
                f"| {name} | {precision} | {100 * figures.value:.1f} | {figures.sqnr_db:.1f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What each PTQ technique comes to on EfficientNet-Lite0, at W8A8 and W4A8: agreement with FP32, SQNR and seconds.

    python benchmarks/techniques.py DIR [--only gptq ...] [--samples N]

DIR is the clone that `benchmarks/efficientnet.py` made; if there is none, it is made and run up to its baseline. Each
row is put on min-max ranges alone (but for `sqnr`, which finds ranges of its own), fitted to the first N calibration
samples (300), or as many of them as the technique takes (`ptq` in DIR's params.yaml), and judged in QuantSim on 200
crops of held-out photographs, and on 200 other crops of the photographs that it was fitted to. A technique that can do
nothing says why.
"""

import argparse
import os
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from bitladder.running import determinism

BITS = ((8, 8), (4, 8))

OTHER = 100  # away from the seeds of the task's splits: crops that nothing was fitted to


def main() -> None:
    """Print a row a technique."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of techniques")
    parser.add_argument("--samples", type=int, help="ptq.samples of DIR, if not given")
    given = parser.parse_args()

    from efficientnet import CHANGES, Clone, make_clone

    clone = Clone(given.folder) if (given.folder / "dvc.yaml").exists() else make_clone(given.folder, CHANGES)
    done = clone.repro("baseline")
    if done.code:
        raise SystemExit(done.text[-2000:])
    os.chdir(given.folder)
    measure(given.only, given.samples)


def measure(only: list[str], samples: int | None) -> None:
    """Quantize the baseline of the pipeline in this folder by each technique."""
    from bitladder.params import load_params

    params = load_params(Path("params.yaml"))
    determinism.pin(params.compute.threads)
    warnings.filterwarnings("ignore")

    from bitladder.network.evaluate import compare, predict
    from bitladder.network.model import sample_inputs
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import load_prepared, load_unfolded
    from bitladder.quantize.ptq import BASELINE, TRAINED
    from bitladder.quantize.techniques.technique import ORDER, RANGES, NotApplicable, Setting, apply
    from bitladder.tasks.builtin.photographs import crops
    from bitladder.tasks.splits import load_split
    from bitladder.tasks.task import Split, load_task

    task = load_task(params.task.factory, params.task.args)
    calibration, evaluation = (
        load_split(Path(f"build/data/{name}.safetensors")) for name in ("calibration", "evaluation")
    )
    sample, batch = sample_inputs(calibration), params.evaluate.batch_size
    model = load_prepared(task, sample, BASELINE, params.prepare.exclude)
    inputs = {"image": crops("calibration", len(evaluation), params.seed + OTHER)}
    answers = predict(model, Split(inputs, evaluation.targets), batch, "fp32")
    same = Split(inputs, next(iter(answers.values())))
    references = [predict(model, evaluation, batch, "fp32"), answers]

    print("| technique | bits | held-out photographs, % | SQNR, dB | fitted ones, % | s |\n" + "|---" * 6 + "|")
    for name in only or ORDER:
        for bits in BITS:
            precision = Precision(*bits)
            with TemporaryDirectory() as work:
                setting = Setting(
                    model=model,
                    unfolded=lambda: load_unfolded(task, sample, TRAINED, BASELINE, params.prepare.exclude),
                    sample=sample,
                    fit=calibration.first(samples or params.ptq.samples),
                    precision=precision,
                    config=params.soc.quantsim_config,
                    params=params.ptq,
                    seed=params.seed,
                    work=Path(work),
                )
                start = time.perf_counter()
                try:
                    found = apply(name, setting, None if name in RANGES else apply("min-max", setting, None))
                except NotApplicable as reason:
                    print(f"| {name} | {precision} | - | - | - | {reason} |", flush=True)
                    continue
                seconds = time.perf_counter() - start
            held_out, seen = (
                compare(task.metric, predict(found.sim.model, split, batch, name), reference, split.targets)
                for split, reference in zip((evaluation, same), references, strict=True)
            )
            print(
                f"| {name} | {precision} | {100 * held_out.value:.1f} | {held_out.sqnr_db:.1f} |"
                f" {100 * seen.value:.1f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What each PTQ technique comes to, in QuantSim and in the NPU's integers: the metric, SQNR and seconds.

    python benchmarks/techniques.py DIR [--only gptq ...] [--bits W4A8 ...] [--samples N] [--scored N] [--onnx]

DIR is a clone with a pipeline; if there is none, it is made as `benchmarks/efficientnet.py` does it, with `--onnx` of
the same network as torch.onnx exports it. It is run up to its baseline. Each row is put on min-max ranges alone (but
for `sqnr`, which finds ranges of its own), fitted to the first N calibration samples (by default `ptq.samples`), or as
many of them as the technique takes. It is scored on the rest of them (`--scored`: on so many of these), as PTQ does,
and on the evaluation split: by QuantSim, and by the model of the NPU's integers. A technique that can do nothing says
why.
"""

import argparse
import os
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from bitladder.running import determinism

ONNX_TASK = '''"""EfficientNet-Lite0 as an ONNX file, on the samples and the metric of the network of torch."""

from dataclasses import replace

import torch

from bitladder.tasks.builtin import efficientnet_lite0
from bitladder.tasks.onnx_model import OnnxModel, no_loss
from bitladder.tasks.task import Task


def task(**sizes: int) -> Task:
    return replace(efficientnet_lite0.task(**sizes), model=OnnxModel("net.onnx"), loss=no_loss)


if __name__ == "__main__":
    names = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": {0: "N"}}}
    model = efficientnet_lite0.network().eval()
    torch.onnx.export(model, torch.randn(1, 3, 224, 224), "net.onnx", opset_version=17, dynamo=False, **names)
'''

ONNX_FILES = {"task": "onnx_task.py", "onnx": "net.onnx"}

BITS = {"W8A8": (8, 8), "W4A8": (4, 8), "W8A16": (8, 16)}


def main() -> None:
    """Print a row a technique."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of techniques")
    parser.add_argument("--bits", nargs="*", choices=BITS, default=["W8A8", "W4A8"])
    parser.add_argument("--samples", type=int, help="ptq.samples of DIR, if not given")
    parser.add_argument("--scored", type=int, help="of the other calibration samples, to score on; by default all")
    parser.add_argument("--onnx", action="store_true", help="the network as an ONNX file, where DIR is made")
    given = parser.parse_args()

    from efficientnet import CHANGES, Clone, make_clone

    there = (given.folder / "dvc.yaml").exists()
    clone = Clone(given.folder) if there else make_clone(given.folder, CHANGES)
    if given.onnx and not there:
        (clone.root / "onnx_task.py").write_text(ONNX_TASK, "utf-8")
        clone.edit({"task.factory": "onnx_task.py:task", "task.files": CHANGES["task.files"] | ONNX_FILES})
        made = clone.run("python", "onnx_task.py")
        if made.returncode:
            raise SystemExit(made.stderr[-2000:])
    done = clone.repro("baseline")
    if done.code:
        raise SystemExit(done.text[-2000:])
    os.chdir(given.folder)
    measure(given.only, given.bits, given.samples, given.scored)


def measure(only: list[str], rungs: list[str], samples: int | None, scored_on: int | None) -> None:
    """Quantize the baseline of the pipeline in this folder by each technique."""
    from bitladder.params import load_params

    params = load_params(Path("params.yaml"))
    determinism.pin(params.compute.threads)
    warnings.filterwarnings("ignore")

    from bitladder.network.evaluate import compare, predict
    from bitladder.network.model import sample_inputs
    from bitladder.paths import PREPARED, TRAINED
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import load_prepared, load_unfolded
    from bitladder.quantize.techniques.technique import ORDER, RANGES, NotApplicable, Setting, apply
    from bitladder.tasks.samples import held
    from bitladder.tasks.splits import load_samples
    from bitladder.tasks.task import load_task

    task = load_task(params.task.factory, params.task.args)
    calibration, evaluation = (load_samples(task, params, name) for name in ("calibration", "evaluation"))
    count = samples or params.ptq.samples
    splits = [held(calibration.after(count).first(scored_on)), held(evaluation)]
    sample, batch, exclude = sample_inputs(calibration), params.evaluate.batch_size, params.prepare.exclude
    model = load_prepared(task, sample, PREPARED, exclude)
    references = [predict(model, split, batch, "fp32") for split in splits]

    print(
        f"| technique | bits | {len(splits[0])} scored on, QuantSim | NPU | {len(evaluation)} held out, QuantSim | NPU"
        " | SQNR, dB | NPU, dB | s |\n" + "|---" * 9 + "|"
    )
    for name in only or ORDER:
        for rung in rungs:
            with TemporaryDirectory() as work:
                setting = Setting(
                    model=model,
                    unfolded=lambda: load_unfolded(task, sample, TRAINED, PREPARED, exclude),
                    sample=sample,
                    fit=held(calibration.first(count)),
                    precision=Precision(*BITS[rung]),
                    config=params.soc.quantsim_config,
                    params=params.ptq,
                    seed=params.seed,
                    work=Path(work),
                )
                start = time.perf_counter()
                try:
                    found = apply(name, setting, None if name in RANGES else apply("min-max", setting, None))
                except NotApplicable as reason:
                    print(f"| {name} | {rung} | - | - | - | - | - | - | {reason} |", flush=True)
                    continue
                seconds = time.perf_counter() - start
                npu = integers_of(found.sim, sample, params, Path(work) / "model.onnx")
                scored = [
                    [
                        compare(task.metric, outputs, reference, split.targets)
                        for outputs in (predict(found.sim.model, split, batch, name), npu(split))
                    ]
                    for split, reference in zip(splits, references, strict=True)
                ]
            values = [f"{one.value:.4f}" for pair in scored for one in pair]
            noise = [f"{one.sqnr_db:.1f}" for one in scored[1]]
            print(f"| {name} | {rung} | {' | '.join([*values, *noise])} | {seconds:.0f} |", flush=True)


def integers_of(sim: "Sim", sample: tuple, params: "Params", path: Path) -> "Callable":  # noqa: F821
    """Export a sim, with the repairs of a rung, and give what runs samples through it in the NPU's integers."""
    import onnx
    import torch

    from bitladder.export.checks import graph_names
    from bitladder.export.repairs import repair_file
    from bitladder.htp.arithmetic.executor import Executor
    from bitladder.network.model import output_names
    from bitladder.targets.exact import BATCH

    sim.export_qdq(sample, graph_names(["image"], list(output_names(sim.model) or ["logits"])), path)
    repair_file(path, params.soc, params.export.rules)
    executor = Executor(onnx.load(path))

    def run(split: "Split") -> "Outputs":  # noqa: F821
        parts = [executor(inputs) for inputs, _ in split.batches(BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return run


if __name__ == "__main__":
    main()

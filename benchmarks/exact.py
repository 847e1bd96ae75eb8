"""The model of the NPU's integers against the emulator: nets at three precisions, and the speed of both.

    python benchmarks/exact.py [--samples N] [--rungs W8A8 ...] [NET ...]

EfficientNet-Lite0 has its ImageNet weights and crops of photographs; torchvision's nets have random weights. Prints a
Markdown table, a row as it ends; an image of EfficientNet-Lite0 takes the emulator a second and more.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bitladder.running import determinism

NETS = {"efficientnet_lite0": 224, "mobilenet_v2": 64, "resnet18": 64}
"""Side of the images in pixels."""

RUNGS = {"W8A8": (8, 8), "W4A8": (4, 8), "W8A16": (8, 16)}

THREADS, CALIBRATION = 1, 16  # the emulator has one process, which keeps one core busy


def main() -> None:
    """Measure every net at every precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=list(RUNGS))
    parser.add_argument("--soc", default="SM8650")
    given = parser.parse_args()
    determinism.pin(THREADS)
    print(
        "| net | rung | samples | equal integers | within one step | equal classes | first difference"
        " | images/s | emulator |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for net in given.nets:
        measure(net, given.rungs, given.samples, given.soc)


def measure(net: str, rungs: list[str], samples: int, soc_name: str) -> None:
    """Print the rows of a net."""
    import torch
    from coverage import network

    from bitladder.export.checks import graph_names
    from bitladder.export.repairs import repair_file
    from bitladder.network.model import output_names, sample_inputs
    from bitladder.params import RULES
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.quantize.sim.sim import build_sim
    from bitladder.socs import find_soc
    from bitladder.tasks.builtin import efficientnet_lite0
    from bitladder.tasks.builtin.photographs import crops
    from bitladder.tasks.task import Split

    torch.manual_seed(0)
    soc, count = find_soc(soc_name), max(samples, CALIBRATION)
    if net == "efficientnet_lite0":
        model, images = efficientnet_lite0.network().eval(), crops("evaluation", count, 3)
    else:
        images = torch.randn(count, 3, NETS[net], NETS[net])
        model = network(net, NETS[net], images[:CALIBRATION])
    split = Split({"image": images}, torch.zeros(count, dtype=torch.int64))
    sample = sample_inputs(split)
    prepared, _ = prepare(model, sample)
    for rung in rungs:
        sim = build_sim(prepared, sample, Precision(*RUNGS[rung]), soc.quantsim_config)
        sim.calibrate(split.first(CALIBRATION), CALIBRATION // 2)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            sim.export_qdq(sample, graph_names(["image"], list(output_names(prepared) or ["y"])), path)
            repair_file(path, soc, tuple(RULES))
            print(row(net, rung, path, split.first(samples), soc), flush=True)


def row(net: str, rung: str, path: Path, split: "Split", soc: "Soc") -> str:  # noqa: F821
    """Emulate a graph, hold the model against that, and give a row of the table."""
    import onnx

    from bitladder.htp.arithmetic.executor import Executor
    from bitladder.params import load_params
    from bitladder.targets.context import compile_model, run_stored
    from bitladder.targets.exact import BATCH, prove
    from bitladder.targets.target import Job
    from bitladder.targets.workers import worker_pool

    settings = load_params(Path(__file__).parents[1] / "params.yaml").target
    settings = settings.model_copy(update={"workers": THREADS, "sample_limit_s": 600.0})
    work = path.parent / "work"
    work.mkdir()
    compiled = compile_model(path, path.parent / "compiled", soc, False, settings.compile_limit_s, work)
    with worker_pool(THREADS, work) as pool:
        run_stored(compiled, soc, False, split.first(1), settings, work / "first", pool)  # loads the model
        start = time.perf_counter()
        emulated = run_stored(compiled, soc, False, split, settings, work, pool)
        emulating = time.perf_counter() - start
    proof, _ = prove(Job(path, rung, split, path.parent, path.parent, work), emulated, soc, settings)
    executor = Executor(onnx.load(path))
    start = time.perf_counter()
    for inputs, _ in split.batches(BATCH):
        executor(inputs)
    running = time.perf_counter() - start
    cells = [
        net,
        rung,
        str(len(split)),
        f"{proof.equal_integers:.3%}",
        f"{proof.within_one_step:.3%}",
        f"{proof.equal_classes:.1%}",
        proof.first_difference or "none",
        f"{len(split) / running:.1f}",
        f"{len(split) / emulating:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

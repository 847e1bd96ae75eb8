"""What PTQ of an ONNX file costs over plain aimet-onnx written by hand: seconds and peak memory, and the ratios.

    python benchmarks/onnx_cost.py [--model FILE] [--samples 100] [--repeats 3]

The file is by default EfficientNet-Lite0 as torch.onnx exports it, its samples crops of photographs; another must have
one input, and gets noise. Both quantize it to W8A8 by min-max ranges from the same samples, and write the QDQ graph and
the encodings. Each run is a process of its own, the two in turn, on one thread. The peak is of the whole process,
the samples included. Seconds are the work's, without imports, and CPU seconds beside them: they are the same beside
other work. By hand the graph's batch is fixed to one and its batch norms are folded, as AIMET's guide says.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

CONFIG = "htp_v75"

PARTS: dict[str, tuple[float, float]] = {}
"""Seconds and CPU seconds of each part of the work."""


def main() -> None:
    """Print a row for each run, a table of the parts, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)  # one run, in this process
    given = parser.parse_args()
    if given.run:
        run(*given.run)
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
        words = [sys.executable, __file__, "--run"]
        model = given.model or folder / "net.onnx"
        made = [*words, "make", str(model), str(given.samples)]
        subprocess.run(made, cwd=folder, env=environment, check=True, capture_output=True)
        rows: dict[str, list[dict[str, float]]] = {"by-hand": [], "bitladder": []}
        for _ in range(given.repeats):
            for side, found in rows.items():
                done = subprocess.run(
                    [*words, side, str(model), str(folder / side)],
                    cwd=folder,
                    env=environment,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
                found.append({key: float(value) for key, value in lines})
    medians = {
        side: {key: statistics.median(row[key] for row in found) for key in found[0]} for side, found in rows.items()
    }
    print("| | by hand | bitladder | ratio |\n" + "|---" * 4 + "|")
    for key in dict.fromkeys(key for row in medians.values() for key in row):
        pair = [medians[side].get(key) for side in rows]
        cells = ["-" if one is None else f"{one:,.2f}" for one in pair]
        print(f"| {key} | {' | '.join(cells)} | {f'{pair[1] / pair[0]:.2f}' if all(pair) else '-'} |")


def run(side: str, model: str, rest: str) -> None:
    """Do one side's work; print what it took."""
    if side == "make":
        make(Path(model), int(rest))
        return
    start = time.perf_counter()
    sides = {"by-hand": by_hand, "bitladder": ours}
    Path(rest).mkdir(exist_ok=True)
    sides[side](Path(model), Path(rest))
    for name, (seconds, cpu) in PARTS.items():
        print(f"{name}, s\t{seconds}\n{name}, CPU s\t{cpu}")
    work = [value for name, value in PARTS.items() if name != "imports"]
    print(f"work, s\t{sum(one[0] for one in work)}\nwork, CPU s\t{sum(one[1] for one in work)}")
    print(f"all with imports, s\t{time.perf_counter() - start}\npeak, MB\t{peak()}")


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Note what a part took."""
    start, cpu = time.perf_counter(), time.process_time()
    yield
    PARTS[name] = time.perf_counter() - start, time.process_time() - cpu


def make(path: Path, count: int) -> None:
    """Write the samples and, where the file is not there, the network."""
    import numpy as np
    import onnx
    import torch

    from bitladder.tasks.builtin.efficientnet_lite0 import network
    from bitladder.tasks.builtin.photographs import crops

    if path.exists():
        shape = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
        np.save("samples.npy", np.random.default_rng(0).standard_normal((count, *shape[1:]), np.float32))
        return
    names = {"input_names": ["image"], "output_names": ["logits"]}
    torch.onnx.export(network().eval(), torch.randn(1, 3, 224, 224), str(path), opset_version=21, dynamo=False, **names)
    np.save("samples.npy", crops("calibration", count, 1).numpy())


def by_hand(path: Path, folder: Path) -> None:
    """Do it with aimet-onnx alone."""
    with timed("imports"):
        import numpy as np
        import onnx
        from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
        from aimet_onnx.common.defs import qtype
        from aimet_onnx.quantsim import QuantizationSimModel
    samples = np.load("samples.npy")
    with timed("read and prepare"):
        model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
        fold_all_batch_norms_to_weight(model)
    with timed("sim and ranges"):
        sim = QuantizationSimModel(
            model,
            param_type=qtype.int(8),
            activation_type=qtype.int(8),
            quant_scheme="min_max",
            config_file=CONFIG,
            session_options_kwargs={"intra_op_num_threads": 1},
        )
        name = model.graph.input[0].name
        sim.compute_encodings({name: samples[i : i + 1]} for i in range(len(samples)))
    with timed("export"):
        onnx.save(sim.to_onnx_qdq(export_int32_bias=False, prequantize_constants=True), str(folder / "qdq.onnx"))
        sim.export(str(folder), "model", encoding_version="1.0.0")


def ours(path: Path, folder: Path) -> None:
    """Do it as the stages do."""
    with timed("imports"):
        from bitladder.running import determinism

        determinism.pin(1)
        import numpy as np
        import torch
        from aimet_onnx.quantsim import QuantizationSimModel  # noqa: F401, as the sim's building imports it

        from bitladder.params import PtqParams
        from bitladder.precision import Precision
        from bitladder.quantize.prepare.prepare import prepare
        from bitladder.quantize.ptq import quantize
        from bitladder.quantize.techniques.technique import Setting
        from bitladder.tasks.onnx_model import OnnxModel
        from bitladder.tasks.task import Split
    values = torch.from_numpy(np.load("samples.npy"))
    with timed("read and prepare"):
        network = OnnxModel(str(path))()
        samples = Split({network.inputs[0]: values}, None)
        sample = (samples.inputs[network.inputs[0]][:1],)
        model, _ = prepare(network, sample)
    with timed("sim and ranges"):
        setting = Setting(
            model=model,
            unfolded=lambda: model,
            sample=sample,
            fit=samples,
            precision=Precision(8, 8),
            config=CONFIG,
            params=PtqParams(techniques=["min-max"], samples=len(samples), batch_size=1),
            seed=0,
            work=folder,
        )
        quantized, _, _ = quantize(setting)
    with timed("export"):
        names = (network.inputs, network.outputs)
        quantized.sim.export_qdq(sample, names, folder / "qdq.onnx")
        quantized.sim.export_encodings(sample, names, folder)


def peak() -> float:
    """Give the most memory that this process has held, in MB, as Linux has it."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    main()

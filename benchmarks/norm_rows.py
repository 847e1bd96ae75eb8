"""A fully connected layer after a LayerNormalization at W8A16: how the NPU's answers depend on the number of rows.

    python benchmarks/norm_rows.py [--rows 1 2 ...] [--socs SM8650 ...]

Prints a Markdown table: the SQNR of the NPU's answers against QuantSim's, in dB, by rows (tokens) and SoC. A cell takes
a few seconds.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from bitladder.export.checks import graph_names
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import sample_inputs
from bitladder.params import load_params
from bitladder.precision import Precision
from bitladder.quantize.sim.sim import build_sim
from bitladder.socs import Soc, find_soc
from bitladder.targets.context import compile_model, run
from bitladder.tasks.task import Split

ROWS = [*range(1, 9), *range(10, 19), 20, 22, 24, 28, 31, 32, 48, 64]
SOCS = ["SM8550", "SM8650", "SM8750"]
WIDTH, SAMPLES = 64, 2


def main() -> None:
    """Print a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--socs", nargs="+", default=SOCS)
    given = parser.parse_args()
    socs = [find_soc(name) for name in given.socs]
    print(f"| rows | {' | '.join(f'{soc.name} ({soc.arch})' for soc in socs)} |\n|---{'|---' * len(socs)}|")
    for rows in given.rows:
        found = [measure(rows, soc) for soc in socs]
        print(f"| {rows} | {' | '.join(f'{db:.1f}' for db in found)} |", flush=True)


def measure(rows: int, soc: Soc) -> float:
    """Quantize, compile and run the two layers; give the SQNR."""
    torch.manual_seed(0)
    split = Split({"x": torch.randn(SAMPLES, rows, WIDTH)}, torch.zeros(SAMPLES))
    sample, settings = sample_inputs(split), load_params().target.model_copy(update={"workers": 1})
    network = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)).eval()
    sim = build_sim(network, sample, Precision(8, 16), soc.quantsim_config)
    sim.calibrate(split, SAMPLES)
    with TemporaryDirectory() as name:
        model, work = Path(name) / "model.onnx", Path(name)
        sim.export_qdq(sample, graph_names(["x"], ["y"]), model)
        compiled = compile_model(model, work / "target", soc, False, settings.compile_limit_s, work)
        answers = run(compiled, soc, False, split, settings, work)
    (simulated,) = predict(sim.model, split, SAMPLES, "").values()
    return sqnr_db({"y": simulated}, {"y": answers["y"]})


if __name__ == "__main__":
    main()

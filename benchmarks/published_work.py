"""Count the work of the networks with published latencies, on torchvision's graphs: latency/data/published_work.csv.

Random weights, since work does not depend on them. Run: python benchmarks/published_work.py (2 minutes, 1 GB of disk)
"""

import argparse
import csv
import warnings
from dataclasses import astuple, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torchvision

from bitladder.latency.graph import read_ops
from bitladder.latency.work import Work, sum_work
from bitladder.running.files import write_csv

DATA = Path(__file__).parents[1] / "src/bitladder/latency/data"
OPSET = 17
# As published: no auxiliary heads at inference, no second normalisation of the input
GOOGLE = {"transform_input": False, "init_weights": False}


def main() -> None:
    """Export each network, count, and write the file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation, which ONNX does not have
    warnings.simplefilter("ignore")
    with (DATA / "published_latency.csv").open(encoding="utf-8") as file:
        published = sorted(
            {(row["model"], row["torchvision_builder"], int(row["input_px"])) for row in csv.DictReader(file)}
        )
    names = [field.name for field in fields(Work)]
    rows = []
    for model, builder, pixels in published:
        arguments = GOOGLE if builder in {"googlenet", "inception_v3"} else {}
        network = getattr(torchvision.models, builder)(weights=None, **arguments).eval()
        with TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "model.onnx"
            image = torch.zeros(1, 3, pixels, pixels)
            torch.onnx.export(network, (image,), str(path), dynamo=False, opset_version=OPSET)
            work = sum_work(read_ops(path))
        rows += [
            {"model": model, "kind": kind, **dict(zip(names, astuple(of), strict=True))} for kind, of in work.items()
        ]
    write_csv(DATA / "published_work.csv", ["model", "kind", *names], rows)


if __name__ == "__main__":
    main()

"""Rebuild the graphs of networks with published latencies, count their work, and keep their latencies beside it.

Writes latency/data/published_work.csv and published_latency.csv. Inputs, in an environment of their own:

- `published_latency_065.csv`: the latencies of Qualcomm AI Hub Models 0.65 (BSD-3-Clause), named by --published.
- `qai-hub-models==0.65.0` (BSD-3-Clause), which builds each network as it was published; torchvision, `timm` and
  `transformers` under it, and `ultralytics` (AGPL-3.0: for the counts only, bitladder neither needs nor ships it).
- The repositories that qai-hub-models clones for some, at the commits that it names.

No weights are loaded: work depends on shapes alone. What cannot be built, or has over 500 million parameters, is named
and left out.

    python benchmarks/published_work.py --published published_latency_065.csv
"""

import argparse
import csv
import importlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torchvision
from published_networks import CONFIGS, NETWORKS, without_weights
from torch import nn

from bitladder.errors import UserError
from bitladder.latency.graph import read_ops
from bitladder.latency.table import RUNTIMES
from bitladder.latency.work import Work, sum_work
from bitladder.running.files import write_csv

DATA = Path(__file__).parents[1] / "src/bitladder/latency/data"
OPSET, MOST_PARAMETERS = 17, 500e6
COPIES = {
    "Dragonwing Q-8750",
    "Dragonwing IQ-X7181",
    "Snapdragon XR2 Gen 2",
    "Dragonwing Q-7790",
    "SA8255P ADP",
    "SA8650P ADP",
}
"""Devices that were not measured: their rows are another device's, to the last digit (its `reference_chipset`)."""

PUBLISHED = ("model", "component", "precision", "device", "runtime", "latency_ms", "peak_memory_max_mb", "layers_total")


def main() -> None:
    """Build, export and count each network, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, required=True, help="published_latency_065.csv")
    published = parser.parse_args().published
    warnings.simplefilter("ignore")
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation, which ONNX does not have
    work: dict[tuple[str, str], dict[str, Work]] = {}
    for model in (name for names in NETWORKS.values() for name in names):
        try:
            with without_weights(CONFIGS), torch.no_grad():
                for component, network in components(model):
                    work[model, component] = count(network)
                    print(model, component, f"{sum(of.macs for of in work[model, component].values()) / 1e9:.2f} GMAC")
        except Exception as error:  # another version of a package builds it no more: the rest still counts
            print(f"left out: {model}: {' '.join(str(error).split())[:200]}")
    names = [field.name for field in fields(Work)]
    rows = [
        {"model": model, "component": component, "kind": kind, **dict(zip(names, astuple(of), strict=True))}
        for (model, component), kinds in work.items()
        for kind, of in kinds.items()
        if any(astuple(of))
    ]
    write_csv(DATA / "published_work.csv", ["model", "component", "kind", *names], rows)
    columns = ["model", "component", "family", *PUBLISHED[2:]]
    write_csv(DATA / "published_latency.csv", columns, list(measured(published, work)))


def components(model: str) -> Iterator[tuple[str, nn.Module]]:
    """Give the parts of a network that run apart from each other; one nameless part where it runs as a whole."""
    if model == "mobilenet_v2":  # built there from a repository that needs its weights; the graph is the same
        classifier = importlib.import_module("qai_hub_models.models.resnet18").Model
        network: Any = classifier(torchvision.models.mobilenet_v2())
    else:
        network = importlib.import_module(f"qai_hub_models.models.{model}").Model.from_pretrained()
    parts = getattr(network, "components", None) or {"": network}
    for name, part in parts.items():
        if sum(parameter.numel() for parameter in part.parameters()) > MOST_PARAMETERS:
            raise UserError("too many parameters to rebuild here")
        yield name, part.eval()


def count(network: Any) -> dict[str, Work]:
    """Export a network at its own input sizes, and count."""
    specs = network.get_input_spec()
    inputs = tuple(torch.ones(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs.values())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(network, inputs, str(path), dynamo=False, opset_version=OPSET, input_names=list(specs))
        return sum_work(read_ops(path))


def measured(published: Path, work: Mapping[tuple[str, str], Any]) -> Iterator[dict[str, str]]:
    """Give the latencies of what was counted: all ops on the NPU, on devices that were measured themselves."""
    families = {model: family for family, models in NETWORKS.items() for model in models}
    with published.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            whole = (row["model"], "") in work
            component = "" if whole else row["component"]
            on_npu = not int(row["layers_cpu"] or 0) and not int(row["layers_gpu"] or 0)
            if not on_npu or row["runtime"] not in RUNTIMES or row["device"] in COPIES:
                continue
            if row["precision"] in {"float", "w8a8", "w8a16"} and (row["model"], component) in work:
                kept = {key: row[key] for key in PUBLISHED}
                yield {**kept, "component": component, "family": families[row["model"]]}


if __name__ == "__main__":
    main()

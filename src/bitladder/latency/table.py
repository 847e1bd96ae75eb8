"""Published on-device latencies, and the work of the networks they are of.

`data/published_latency.csv` is from Qualcomm AI Hub Models v0.46 (BSD-3-Clause; data/LICENSE.txt). The work of each
network, `data/published_work.csv`, was counted by benchmarks/published_work.py on the torchvision graph.
`data/reach.csv` says how far the fit to both is off models that it has not seen: benchmarks/latency_reach.py.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from bitladder.latency.work import PRECISIONS, Work, features

__all__ = ["RUNTIME", "Measurement", "published_measurements", "published_reach", "published_work"]

RUNTIME = "qnn_dlc"

_IN_OUR_WORDS = {"float": "fp16"}


@dataclass(frozen=True)
class Measurement:
    """A published latency; `values`: features as the network ran; `user_values`: as a user's graph shows them."""

    model: str
    device: str
    precision: str
    latency_ms: float
    values: np.ndarray
    user_values: np.ndarray


@cache
def published_work() -> dict[str, dict[str, Work]]:
    """Give the work of each published network by kind."""
    work: dict[str, dict[str, Work]] = {}
    for row in _rows("published_work.csv"):
        model, kind, *counts = row.values()
        work.setdefault(model, {})[kind] = Work(*map(int, counts))
    return work


@cache
def published_measurements() -> tuple[Measurement, ...]:
    """Give the measurements of RUNTIME at PRECISIONS, in the order of the file."""
    rows = [row for row in _rows("published_latency.csv") if row["runtime"] == RUNTIME]
    layers = {(row["model"], row["device"]): int(row["layers_total"]) for row in rows if row["precision"] == "float"}
    most = {model: max(n for (name, _), n in layers.items() if name == model) for model, _ in layers}
    found = []
    for row in rows:
        precision = _IN_OUR_WORDS.get(row["precision"], row["precision"])
        if precision not in PRECISIONS:
            continue
        work = published_work()[row["model"]]
        # An integer graph that converts its input has a layer more than the float one; two published ones do not
        converts = int(row["layers_total"]) > most[row["model"]]
        values, user_values = features(work, precision, converts), features(work, precision)
        latency = float(row["latency_ms"])
        found.append(Measurement(row["model"], row["device"], precision, latency, values, user_values))
    return tuple(found)


def published_reach() -> dict[str, float]:
    """Give how far an estimate's interval reaches at each precision: the logarithm of the factor up and down."""
    return {row["precision"]: float(row["reach"]) for row in _rows("reach.csv")}


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = files("bitladder.latency").joinpath("data", name).read_text("utf-8")
    yield from csv.DictReader(text.splitlines())

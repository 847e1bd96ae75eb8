"""Published latencies, the work of the networks they are of, and what was fitted to both: all of it data on file.

`data/published_latency.csv` is from Qualcomm AI Hub Models v0.65 (BSD-3-Clause; data/LICENSE.txt): networks whose
graphs could be rebuilt, with all ops on the NPU. `data/published_work.csv` is the work of those graphs. Both are from
benchmarks/published_work.py, and all other files by benchmarks/latency_fit.py; nothing is fitted when bitladder runs.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from bitladder.latency.work import Work

__all__ = [
    "RUNTIMES",
    "Kernel",
    "Measurement",
    "Place",
    "Residuals",
    "kernel",
    "left_out",
    "memory_costs",
    "published_measurements",
    "published_work",
    "reach",
    "residuals",
    "unit_costs",
]

RUNTIMES = ("qnn_dlc", "precompiled_qnn_onnx")
"""Where the published networks ran. Beside a bare context binary, the second takes 0.2 % longer in the median."""

_IN_OUR_WORDS = {"float": "fp16"}

Place = tuple[str, str]
"""A device and a precision."""

Residuals = Mapping[tuple[str, str], Mapping[str, float]]
"""Measured / fitted latency as a logarithm, by graph and precision, then by device."""


@dataclass(frozen=True)
class Measurement:
    """A published latency. `converts`: whether an integer graph turns its float input into integers."""

    model: str
    component: str
    family: str
    device: str
    precision: str
    runtime: str
    latency_ms: float
    memory_mb: float
    converts: bool

    @property
    def graph(self) -> str:
        """The name of the graph: a network may have several."""
        return f"{self.model}/{self.component}" if self.component else self.model

    @property
    def place(self) -> Place:
        """Where it was measured."""
        return self.device, self.precision


@dataclass(frozen=True)
class Kernel:
    """How residuals of published networks are alike.

    `width`: the distance between shares of latency at which two networks tell little of each other; `shared`: the
    correlation between precisions; `noise`: the variance that no other network shares, as a part of all variance.
    """

    width: float
    shared: float
    noise: float


@cache
def published_work() -> dict[str, dict[str, Work]]:
    """Give the work of each published graph by kind."""
    from bitladder.latency.graph import KINDS

    work: dict[str, dict[str, Work]] = {}
    for row in _rows("published_work.csv"):
        model, component, kind, *counts = row.values()
        graph = f"{model}/{component}" if component else model
        work.setdefault(graph, {of: Work() for of in KINDS})[kind] = Work(*map(int, counts))
    return work


@cache
def published_measurements() -> tuple[Measurement, ...]:
    """Give the measurements of graphs whose work is known, in the order of the file."""
    rows = list(_rows("published_latency.csv"))
    float_layers: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["precision"] == "float":
            key = (row["model"], row["component"])
            float_layers[key] = max(float_layers.get(key, 0), int(row["layers_total"]))
    found = []
    for row in rows:
        # An integer graph that converts its input has a layer more than the float one
        layers = float_layers.get((row["model"], row["component"]), 0)
        converts = row["precision"] != "float" and int(row["layers_total"]) > layers
        found.append(
            Measurement(
                model=row["model"],
                component=row["component"],
                family=row["family"],
                device=row["device"],
                precision=_IN_OUR_WORDS.get(row["precision"], row["precision"]),
                runtime=row["runtime"],
                latency_ms=float(row["latency_ms"]),
                memory_mb=float(row["peak_memory_max_mb"] or math.nan) or math.nan,
                converts=converts,
            )
        )
    return tuple(found)


@cache
def unit_costs() -> dict[Place, np.ndarray]:
    """Give the cost in ms of each of FEATURES, by device and precision."""
    return _costs("unit_costs.csv")


@cache
def memory_costs() -> dict[Place, np.ndarray]:
    """Give the cost in MB of each of MEMORY_FEATURES, by device and precision."""
    return _costs("memory_costs.csv")


@cache
def residuals() -> Residuals:
    """Give how far the fit is off each published latency."""
    found = {}
    for row in _rows("residuals.csv"):
        graph, precision, *by_device = row.items()
        found[graph[1], precision[1]] = {device: float(value) for device, value in by_device if value}
    return found


@cache
def kernel() -> Kernel:
    """Give the kernel that fits residuals best."""
    return Kernel(**{key: float(value) for key, value in next(_rows("kernel.csv")).items()})


@cache
def reach() -> dict[tuple[str, str], float]:
    """Give how far intervals reach, as a logarithm, by what they are of and precision; of latency, at a spread of 1."""
    return {(row["what"], row["precision"]): float(row["reach"]) for row in _rows("reach.csv")}


def left_out() -> list[dict[str, str]]:
    """Give each published latency beside the estimate of a fit that had not seen its network."""
    return list(_rows("left_out.csv"))


def _costs(name: str) -> dict[Place, np.ndarray]:
    found = {}
    for row in _rows(name):
        device, precision, *costs = row.values()
        found[device, precision] = np.array([float(cost) for cost in costs])
    return found


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = files("bitladder.latency").joinpath("data", name).read_text("utf-8")
    yield from csv.DictReader(text.splitlines())

"""Latency of an ONNX model on a device that is not at hand: a value, an interval, and how far to trust them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bitladder.errors import UserError
from bitladder.latency.fit import Model, fit
from bitladder.latency.graph import read_ops
from bitladder.latency.table import RUNTIME, Measurement, published_measurements, published_reach
from bitladder.latency.work import PRECISIONS, features, sum_work
from bitladder.socs import all_socs, normalised

__all__ = [
    "RUNTIME",
    "Estimate",
    "devices",
    "estimate",
    "fit_report",
    "reach_by_precision",
]

COVERAGE = 0.8
"""Share of models that an interval is meant to hold."""

QUANTILE = 0.85  # of the errors of left-out models: over COVERAGE, since a new model differs more than these few do


@dataclass(frozen=True)
class Estimate:
    """Latency in ms on one device; the interval holds COVERAGE of models that were left out of the fit."""

    device: str
    precision: str
    latency_ms: float
    low_ms: float
    high_ms: float
    runtime: str = RUNTIME


def devices() -> dict[str, tuple[str, ...]]:
    """Give each device that has published latencies, and the precisions there are of it."""
    found = {(measured.device, measured.precision) for measured in published_measurements()}
    names = sorted({device for device, _ in found})
    return {name: tuple(precision for precision in PRECISIONS if (name, precision) in found) for name in names}


def estimate(model: Path, device: str, precision: str) -> Estimate:
    """Estimate the latency of an ONNX model (float, FP16 or QDQ) at fp16, w8a8 or w8a16.

    Raises UserError for an unknown device or precision, or a graph that cannot be read.
    """
    device, precision = _find_device(device), precision.lower()
    if precision not in PRECISIONS:
        raise UserError(f"no latencies are published at {precision}; use one of {', '.join(PRECISIONS)}")
    if precision not in devices()[device]:
        raise UserError(f"{device} has no published latencies at {precision}; it has {', '.join(devices()[device])}")
    work = sum_work(read_ops(model))
    if not sum(of.ops for of in work.values()):
        raise UserError("the graph holds no operation, so there is no latency to estimate")
    value = _fitted().latency_ms((device, precision), features(work, precision))
    reach = published_reach()[precision]
    return Estimate(device, precision, value, float(value * np.exp(-reach)), float(value * np.exp(reach)))


def reach_by_precision() -> dict[str, float]:
    """Give how far intervals reach, as a logarithm, from the errors of fits that each leave a model out: a second.

    data/reach.csv keeps them; `python benchmarks/latency_reach.py` writes it.
    """
    return {precision: _reach(_left_out(), precision) for precision in PRECISIONS}


def fit_report() -> list[dict[str, Any]]:
    """Estimate every published latency from the other models alone, and compare.

    Returns: a row per device and precision with the number of models, median, 90th percentile and largest relative
    error, the share of points within their intervals (each from the other models' errors) and the worst model.
    """
    left_out = _left_out()
    held = [low <= ratio <= high for ratio, (low, high) in _with_intervals(left_out)]
    rows = []
    for device, precisions in devices().items():
        for precision in precisions:
            chosen = [index for index, (m, _) in enumerate(left_out) if (m.device, m.precision) == (device, precision)]
            errors = [abs(left_out[index][1] / left_out[index][0].latency_ms - 1) for index in chosen]
            rows.append(
                {
                    "device": device,
                    "precision": precision,
                    "models": len(chosen),
                    "median_error": float(np.median(errors)),
                    "p90_error": float(np.quantile(errors, 0.9)),
                    "max_error": max(errors),
                    "within_interval": float(np.mean([held[index] for index in chosen])),
                    "worst": left_out[chosen[int(np.argmax(errors))]][0].model,
                }
            )
    return rows


def _find_device(name: str) -> str:
    """Give the device of this name, or the one with the SoC of this name. Raise UserError with the names there are."""
    for device in devices():
        if normalised(device) == normalised(name):
            return device
    soc = next((soc for soc in all_socs().values() if soc.is_called(name)), None)
    if soc is None or soc.device is None:
        with_device = sorted(soc.name for soc in all_socs().values() if soc.device)
        raise UserError(
            f"{name!r} is no device with published latencies; use one of {', '.join(devices())}, or a SoC of"
            f" {', '.join(with_device)}"
        )
    return soc.device


LeftOut = Sequence[tuple[Measurement, float]]


@cache
def _fitted() -> Model:
    return _fit(published_measurements())


def _fit(measured: Sequence[Measurement], start: Model | None = None) -> Model:
    places = [(m.device, m.precision) for m in measured]
    return fit(places, np.array([m.values for m in measured]), np.array([m.latency_ms for m in measured]), start)


@cache
def _left_out() -> LeftOut:
    """Give each measurement with what a fit without any of its model says."""
    measured = published_measurements()
    names = sorted({m.model for m in measured})
    fits = {name: _fit([m for m in measured if m.model != name], _fitted()) for name in names}
    return [(m, fits[m.model].latency_ms((m.device, m.precision), m.user_values)) for m in measured]


def _reach(left_out: LeftOut, precision: str) -> float:
    """Give how far the measured value may lie from an estimate, as the logarithm of the factor between them."""
    errors = [abs(np.log(m.latency_ms / value)) for m, value in left_out if m.precision == precision]
    return float(np.quantile(errors, QUANTILE))


def _with_intervals(left_out: LeftOut) -> Iterator[tuple[float, tuple[float, float]]]:
    """Give, for each left-out measurement, measured / estimated and its interval from all other models."""
    known: dict[tuple[str, str], float] = {}
    for m, value in left_out:
        key = (m.model, m.precision)
        if key not in known:
            known[key] = _reach([other for other in left_out if other[0].model != m.model], m.precision)
        yield m.latency_ms / value, (float(np.exp(-known[key])), float(np.exp(known[key])))

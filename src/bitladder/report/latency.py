"""Estimates by device, and the errors of the latency model on published networks that it has not seen, as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from bitladder.latency.estimate import COVERAGE, Estimate
from bitladder.latency.table import left_out, reach

__all__ = ["error_rows", "format_errors", "format_estimate", "format_estimates"]

GROUPS = ("precision", "family", "device")


def error_rows() -> list[dict[str, Any]]:
    """Sum up the errors on left-out networks: over everything, then by precision, by family and by device.

    Returns: a row per group with its networks and points, median, 90th percentile and largest relative error, the share
    of points within their intervals, and the network with the largest error.
    """
    points = left_out()
    rows = [_row("all", "", points)]
    for group in GROUPS:
        for name in sorted({point[group] for point in points}):
            rows.append(_row(group, name, [point for point in points if point[group] == name]))
    return rows


def _row(group: str, name: str, points: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    ratios = np.array([float(point["estimated_ms"]) / float(point["measured_ms"]) for point in points])
    reaches = [float(point["spread"]) * reach()["latency", point["precision"]] for point in points]
    errors = np.abs(ratios - 1)
    return {
        "group": group,
        "name": name,
        "networks": len({point["model"] for point in points}),
        "points": len(points),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "max_error": float(errors.max()),
        "worst": points[int(errors.argmax())]["model"],
        "within_interval": float(np.mean(np.abs(np.log(ratios)) <= reaches)),
    }


def format_errors(rows: Iterable[Mapping[str, Any]]) -> str:
    """Give error_rows as a Markdown table for people."""
    headers = ["", "", "networks", "points", "median error", "90th percentile", "largest", "of", "within interval"]
    table = [
        [
            *(row[key] for key in ("group", "name", "networks", "points")),
            *(f"{row[key]:.1%}" for key in ("median_error", "p90_error", "max_error")),
            row["worst"],
            f"{row['within_interval']:.0%}",
        ]
        for row in rows
    ]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def format_estimate(found: Estimate) -> str:
    """Give an estimate in two lines."""
    return (
        f"{found.latency_ms:.3f} ms estimated on {found.device} ({found.precision}); {COVERAGE:.0%} interval"
        f" {found.low_ms:.3f} to {found.high_ms:.3f} ms. Peak memory {found.memory_mb:.0f} MB;"
        f" {found.memory_low_mb:.0f} to {found.memory_high_mb:.0f} MB.\nFrom {found.basis} ({found.runtime})."
    )


def format_estimates(found: Iterable[Estimate]) -> str:
    """Give estimates as a Markdown table: a row for each device."""
    headers = ["device", "ms", f"{COVERAGE:.0%} interval", "peak MB", f"{COVERAGE:.0%} interval"]
    table = [
        [
            of.device,
            f"{of.latency_ms:.3f}",
            f"{of.low_ms:.3f} to {of.high_ms:.3f}",
            f"{of.memory_mb:.0f}",
            f"{of.memory_low_mb:.0f} to {of.memory_high_mb:.0f}",
        ]
        for of in found
    ]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)

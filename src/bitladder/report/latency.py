"""The errors of the latency model on published models that it has not seen, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

__all__ = ["format_report"]


def format_report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Give fit_report's rows as a Markdown table for people."""
    headers = ["device", "precision", "models", "median error", "90th percentile", "largest", "of", "within interval"]
    table = [
        [
            row["device"],
            row["precision"],
            row["models"],
            *(f"{row[key]:.1%}" for key in ("median_error", "p90_error", "max_error")),
            row["worst"],
            f"{row['within_interval']:.0%}",
        ]
        for row in rows
    ]
    measured = sum(row["models"] for row in rows)
    held = sum(row["models"] * row["within_interval"] for row in rows) / measured
    within = f"{held:.1%} of all {measured} left-out points are within their 80 % interval."
    return tabulate(table, headers, tablefmt="github", disable_numparse=True) + "\n\n" + within

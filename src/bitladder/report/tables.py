"""The comparison over rungs: as rows, and as a table to print."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from bitladder.precision import FLOAT, Precision

__all__ = ["COLUMNS", "comparison_rows", "format_table", "mark"]

OFF_TARGET = ("metric", "value", "drop", "sqnr_db", "agreement", "technique")
ON_TARGET = ("value", "drop", "gap", "sqnr_db", "agreement", "samples")
COST = ("memory_bytes", "latency_ms", "latency_source", "ops_npu", "ops_cpu", "backend", "soc")

DECIDED = ("pareto", "chosen", "then")

COLUMNS = ("rung", "precision", *OFF_TARGET, *(f"target_{name}" for name in ON_TARGET), *COST, *DECIDED)
"""Columns of metrics/comparison.csv; target_* and what follows are the target's, the rest is off target.

`pareto` marks rungs that no other beats in size and in accuracy on target; `then` says what followed, and why.
"""

Records = Mapping[str, Mapping[str, Any]]


def comparison_rows(evals: Records, targets: Records, decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give a row for FP32 and for each rung, in the order of `evals`. What was not measured is None.

    `decision` is what metrics/decision.json holds.
    """
    trail = {entry["rung"]: entry for entry in decision["trail"]}
    rows = []
    for name, off in evals.items():
        on = targets.get(name, {})
        rows.append(
            {"rung": name, "precision": _precision(name, off)}
            | {column: off[column] for column in OFF_TARGET}
            | {f"target_{column}": on.get(column) for column in ON_TARGET}
            | {column: on.get(column) for column in COST}
            | {"chosen": name == decision["chosen"]}
            | {key: trail.get(name, {}).get(key) for key in ("pareto", "then")}
        )
    return rows


def format_table(rows: list[dict[str, Any]]) -> str:
    """Give the comparison as a Markdown table for people: points and dB, `-` for what was not measured."""
    headers = [
        "rung", "precision", "technique", rows[0]["metric"], "drop", "SQNR dB",
        "on target", "drop", "against sim", "SQNR dB", "bytes", "latency ms", "",
    ]  # fmt: skip
    table = [
        [
            row["rung"],
            row["precision"],
            row["technique"] or "-",
            _number(row["value"], ".4f"),
            _number(row["drop"], "+.4f"),
            _number(row["sqnr_db"], ".1f"),
            _number(row["target_value"], ".4f"),
            _number(row["target_drop"], "+.4f"),
            _number(row["target_gap"], ".4f"),
            _number(row["target_sqnr_db"], ".1f"),
            _number(row["memory_bytes"], ","),
            _latency(row),
            mark(row),
        ]
        for row in rows
    ]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def mark(row: Mapping[str, Any]) -> str:
    """Say in a word or two what became of a row's rung."""
    if row["chosen"]:
        return "<- chosen"
    return "skipped" if (row["then"] or "").startswith("skipped") else "Pareto" if row["pareto"] else ""


def _latency(row: Mapping[str, Any]) -> str:
    estimated = " (estimated)" if row["latency_source"] == "estimated" else ""
    return _number(row["latency_ms"], ".3f") + estimated


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _precision(name: str, record: Mapping[str, Any]) -> str:
    if name in FLOAT:
        return name.upper()
    return str(Precision(record["weights_bits"], record["activations_bits"]))

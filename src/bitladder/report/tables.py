"""The comparison over rungs: as rows, and as a table to print."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from bitladder.decision.figures import figure, interval
from bitladder.paths import RungFiles
from bitladder.precision import FLOAT, Precision
from bitladder.records import Decision, Evaluation, ExportCheck, FloatShare, Measurement, RungDecision

__all__ = [
    "COLUMNS",
    "INTERVALS",
    "SOC_COLUMNS",
    "cell",
    "comparison_rows",
    "float_cell",
    "format_soc_table",
    "format_table",
    "interval_note",
    "is_undecided",
    "latency_cell",
    "mark",
    "metric_cell",
    "soc_rows",
]

OFF_TARGET = ("metric", "value", "drop", "sqnr_db", "agreement", "technique")
ON_TARGET = ("value", "drop", "gap", "sqnr_db", "agreement", "samples")
COST = ("memory_bytes", "latency_ms", "latency_source", "ops_npu", "ops_cpu", "backend", "soc")

COMPARED = ("drop_low", "drop_high", "lost", "won", "disagree", "verdict", "samples_to_settle")
GAP = tuple(f"gap_{name.removeprefix('drop_')}" for name in COMPARED)
INTERVALS = (*COMPARED, *(f"target_{name}" for name in COMPARED), *GAP)
"""How far figures may be chance, by the names of metrics/decision.json."""

IN_FLOAT = ("ops", "weights")
DECIDED = ("pareto", "chosen", "outcome")

COLUMNS = (
    "rung", "precision", *OFF_TARGET, *(f"target_{name}" for name in ON_TARGET), *COST,
    *(f"float_{name}" for name in IN_FLOAT), *INTERVALS, *DECIDED,
)  # fmt: skip
"""Columns of metrics/comparison.csv; target_* and what follows are the target's, the rest is off target.

`float_ops` and `float_weights` say how much of an exported rung is float: ops, and part of the weights. `pareto` marks
rungs that no other beats in size and in accuracy on target; `outcome` says what came of them, and why.
"""

SOC_COLUMNS = ("rung", "precision", "soc", "metric", *ON_TARGET, *COST[:-1], *COMPARED, *GAP, "reason")
"""Columns of metrics/comparison-socs.csv: a row per rung and SoC, target.soc first."""

Evaluations = Mapping[str, Evaluation]
Measurements = Mapping[str, Measurement]


def comparison_rows(
    evals: Evaluations, targets: Measurements, exports: Mapping[str, ExportCheck], decision: Decision
) -> list[dict[str, Any]]:
    """Give a row for FP32 and for each rung, in the order of `evals`. What was not measured is None."""
    rows = []
    for name, off in evals.items():
        on, entry, exported = targets.get(name), decision.of(name), exports.get(name)
        share = exported and exported.float_share
        rows.append(
            {"rung": name, "precision": _precision(name, off)}
            | {column: getattr(off, column) for column in OFF_TARGET}
            | {f"target_{column}": on and getattr(on, column) for column in ON_TARGET}
            | {column: on and getattr(on, column) for column in COST}
            | {column: entry and getattr(entry.measured, column) for column in INTERVALS}
            | {f"float_{column}": share and getattr(share, column) for column in IN_FLOAT}
            | {"chosen": name == decision.chosen}
            | {column: entry and getattr(entry, column) for column in ("pareto", "outcome")}
        )
    return rows


def soc_rows(
    evals: Evaluations, targets: Measurements, socs: Mapping[str, Measurements], decision: Decision
) -> list[dict[str, Any]]:
    """Give a row for each rung on each SoC. What was not measured is None, and `reason` says why."""
    return [
        {"rung": rung, "precision": _precision(rung, evals[rung]), "metric": evals[rung].metric}
        | {column: getattr(on, column) for column in ("soc", *ON_TARGET, *COST[:-1], "reason")}
        | _compared_on(decision.of(rung), on.soc)
        for rung, first in targets.items()
        for on in (first, *socs.get(rung, {}).values())
    ]


def format_soc_table(rows: list[dict[str, Any]]) -> str:
    """Give the rungs on every SoC as a Markdown table for people; a rung that was not measured says why."""
    headers = ["rung", "precision", "SoC", f"{rows[0]['metric']} on target", "drop", "interval", "gap to sim",
               "dB to sim", "bytes", "latency ms", ""]  # fmt: skip
    table = [
        [
            row["rung"],
            row["precision"],
            row["soc"],
            metric_cell(row["value"]),
            metric_cell(row["drop"], "+"),
            interval(row["drop_low"], row["drop_high"]) or "-",
            metric_cell(row["gap"]),
            cell(row["sqnr_db"], ".1f"),
            cell(row["memory_bytes"], ","),
            latency_cell(row),
            row["reason"].split(":")[0] if row["value"] is None else "",
        ]
        for row in rows
    ]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def format_table(rows: list[dict[str, Any]]) -> str:
    """Give the comparison as a Markdown table for people: points and dB, `-` for what was not measured."""
    headers = [
        "rung", "precision", "technique", rows[0]["metric"], "drop", "interval", "SQNR dB",
        "on target", "drop there", "interval", "gap to sim", "dB to sim", "bytes", "latency ms", "of it in float", "",
    ]  # fmt: skip
    table = [
        [
            row["rung"],
            row["precision"],
            row["technique"] or "-",
            metric_cell(row["value"]),
            metric_cell(row["drop"], "+"),
            interval(row["drop_low"], row["drop_high"]) or "-",
            cell(row["sqnr_db"], ".1f"),
            metric_cell(row["target_value"]),
            metric_cell(row["target_drop"], "+"),
            interval(row["target_drop_low"], row["target_drop_high"]) or "-",
            metric_cell(row["target_gap"]),
            cell(row["target_sqnr_db"], ".1f"),
            cell(row["memory_bytes"], ","),
            latency_cell(row),
            float_cell(row),
            mark(row),
        ]
        for row in rows
    ]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def interval_note(decision: Decision) -> str:
    """Say what the intervals are: of one rung each, and by which method."""
    measured = [entry.measured for entry in decision.trail]
    methods = dict.fromkeys(
        method
        for one in measured
        for method in (one.method, one.target_method)
        if method and "no interval" not in method
    )
    confidence = decision.trail[0].goals.confidence
    if not methods or confidence is None:
        return "Interval: none, as nothing is known of the samples one by one."
    return (
        f"Interval: of the drop, at a confidence of {confidence:g}, by {' or '.join(methods)}. Each is of one rung by"
        f" itself: one in {1 / (1 - confidence):.3g} such intervals does not hold the truth."
    )


def block_notes(exports: Mapping[str, ExportCheck]) -> list[str]:
    """Say of each rung with block weights, which layers have them; or, of many, how many and where they stand."""
    blocks = {rung: one.block_weights for rung, one in exports.items() if one.block_weights}
    return [
        f"{rung}: {one}" + f"; `block_weights` in {RungFiles(rung).export_metrics} names them" * (not one.names_layers)
        for rung, one in blocks.items()
    ]


def mark(row: Mapping[str, Any]) -> str:
    """Say in a word or two what became of a row's rung."""
    if row["chosen"]:
        return "<- chosen" + (", undecided" if is_undecided(row) else "")
    word = (row["outcome"] or "").partition(":")[0]
    return word if word in ("skipped", "refused") else "Pareto" if row["pareto"] else ""


def is_undecided(row: Mapping[str, Any]) -> bool:
    """Whether the samples do not decide one of the metric's goals of a row's rung."""
    return "undecided" in (row["verdict"], row["target_verdict"], row["gap_verdict"])


def metric_cell(value: float | None, sign: str = "") -> str:
    """Give a metric, or a difference of it; `-` for what was not measured."""
    return "-" if value is None else figure(value, sign)


def latency_cell(row: Mapping[str, Any]) -> str:
    """Give a row's latency in ms, and say so where it is estimated."""
    return cell(row["latency_ms"], ".3f") + (" (estimated)" if row["latency_source"] == "estimated" else "")


def float_cell(row: Mapping[str, Any]) -> str:
    """Say how much of a row's rung is float: ops, and part of the weights."""
    ops = row["float_ops"]
    return "-" if ops is None else str(FloatShare(ops=ops, weights=row["float_weights"]))


def cell(value: float | None, form: str) -> str:
    """Give a figure as people read it; `-` for what was not measured."""
    return "-" if value is None else format(value, form)


def _compared_on(entry: RungDecision | None, soc: str) -> dict[str, Any]:
    """Give a rung's intervals on a SoC."""
    if entry is None or soc in entry.measured.socs:
        found = entry and entry.measured.socs[soc]
        return {column: found and getattr(found, column) for column in (*COMPARED, *GAP)}
    on_first = {column: getattr(entry.measured, f"target_{column}") for column in COMPARED}
    return on_first | {column: getattr(entry.measured, column) for column in GAP}


def _precision(name: str, record: Evaluation) -> str:
    if name in FLOAT:
        return name.upper()
    return str(Precision(record.weights_bits, record.activations_bits))

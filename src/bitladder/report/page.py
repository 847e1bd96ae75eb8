"""The report: one HTML page that works offline, from the metrics files. Starts without torch."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from bitladder.decision.figures import figure, interval
from bitladder.decision.results import read_results
from bitladder.params import Params
from bitladder.paths import DECISION, PARAMS, SENSITIVITY_ROWS, RungFiles, evaluated
from bitladder.records import Decision, Evaluation, Measurement, read_record
from bitladder.report import charts
from bitladder.report.facts import facts
from bitladder.report.published import beside_published
from bitladder.report.tables import (
    block_notes,
    cell,
    comparison_rows,
    float_cell,
    interval_note,
    is_undecided,
    latency_cell,
    mark,
    metric_cell,
    soc_rows,
)
from bitladder.running.files import read_json, write_text
from bitladder.running.version import installed

__all__ = ["render"]

Rows = list[dict[str, Any]]
Cell = tuple[str, str, str | None]
"""What a cell of a table says; in small letters below, an interval; and whether the goal holds."""


def render(params: Params) -> str:
    """Give the page for what metrics/ and build/ hold. Raise UserError where the metrics are missing.

    What only the DVC cache holds (weights channel by channel) is left out where it is not there, and the page says so.
    """
    results, decision = read_results(params), read_record(Decision, DECISION)
    rows = comparison_rows(results.evals, results.targets, results.exports, decision)
    rows = [row | _latency_ends(results.targets.get(row["rung"])) for row in rows]
    by_soc = soc_rows(results.evals, results.targets, results.socs, decision) if any(results.socs.values()) else []
    by_soc = [
        row | _latency_ends(results.socs[row["rung"]].get(row["soc"], results.targets[row["rung"]])) for row in by_soc
    ]
    sign = 1 if results.evals["fp32"].higher_is_better else -1
    plots, specs = _plots(params, _with_ends(rows, sign, ("", "target_")), decision, _with_ends(by_soc, sign, ("",)))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("bitladder.report").joinpath("page.html").read_text("utf-8"))
    chosen = next((row for row in rows if row["chosen"]), None)
    return template.render(
        title=params.task.factory,
        headline=_headline(chosen, params),
        decision=decision,
        goals=_goals(decision.trail[0].goals.model_dump()),
        metric=rows[0]["metric"],
        undecided=chosen is not None and is_undecided(chosen),
        table=[{"state": _state(row), "cells": _cells(row)} for row in rows],
        interval_note=interval_note(decision),
        block_notes=block_notes(results.exports),
        socs=[_soc_cells(row) for row in by_soc],
        plots=plots,
        facts=facts(params),
        params=PARAMS.read_text("utf-8"),
        library=Markup(_library()),  # noqa: S704
        # A name from the user's task could close the script element
        specs=Markup(json.dumps(specs).replace("<", "\\u003c")),  # noqa: S704
    )


def _library() -> str:
    """Give the code that draws the plots. It is kept in the environment, if that can be written to.

    Bundling it takes a second, always to the same.
    """
    path = Path(sys.prefix, "share/bitladder", f"vega-{installed('vl-convert-python')}.js")
    if path.exists():
        return path.read_text("utf-8")
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    with suppress(OSError):
        write_text(path, code)
    return code


def _headline(chosen: Mapping[str, Any] | None, params: Params) -> str:
    if chosen is None:
        return "No rung meets the goals"
    return f"Ship {chosen['rung']} ({chosen['precision']}) on {params.target.soc}"


def _goals(asked: Mapping[str, Any]) -> str:
    own = [f"on {soc} {_goals(goals) or 'the same'}" for soc, goals in asked.get("per_soc", {}).items()]
    return ", ".join([*(f"{key} {value}" for key, value in asked.items() if key != "per_soc"), *own])


def _state(row: Mapping[str, Any]) -> str:
    return "chosen" if row["chosen"] else "skipped" if mark(row) in ("skipped", "refused") else ""


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    return [
        *(_plain(row[key] or "-") for key in ("rung", "precision", "technique")),
        _plain(metric_cell(row["value"])),
        _drop(row, ""),
        _plain(metric_cell(row["target_value"])),
        _drop(row, "target_"),
        _gap(row, "target_gap"),
        _plain(cell(row["target_sqnr_db"], ".1f")),
        *_costs(row),
        _plain(float_cell(row)),
        _plain(mark(row).removeprefix("<- ").partition(",")[0]),
    ]


def _soc_cells(row: Mapping[str, Any]) -> list[Cell]:
    return [
        *(_plain(row[key]) for key in ("rung", "precision", "soc")),
        _plain(metric_cell(row["value"])),
        _drop(row, ""),
        _gap(row, "gap"),
        _plain(cell(row["sqnr_db"], ".1f")),
        *_costs(row),
        _plain(row["reason"] if row["value"] is None else ""),
    ]


def _plain(text: str) -> Cell:
    return text, "", None


def _drop(row: Mapping[str, Any], prefix: str) -> Cell:
    ends = interval(row[f"{prefix}drop_low"], row[f"{prefix}drop_high"])
    return metric_cell(row[f"{prefix}drop"], "+"), ends, row[f"{prefix}verdict"]


def _gap(row: Mapping[str, Any], key: str) -> Cell:
    return metric_cell(row[key]), interval(row["gap_low"], row["gap_high"], ""), row["gap_verdict"]


def _costs(row: Mapping[str, Any]) -> tuple[Cell, Cell]:
    memory, low, high = row["memory_bytes"], row["latency_low_ms"], row["latency_high_ms"]
    ends = "" if low is None else f"{low:.3f} to {high:.3f}"
    return _plain(cell(memory and memory / charts.KIB, ",.0f")), (latency_cell(row), ends, None)


def _latency_ends(found: Measurement | None) -> dict[str, float | None]:
    return {key: getattr(found, key, None) for key in ("latency_low_ms", "latency_high_ms")}


def _with_ends(rows: Rows, sign: int, prefixes: tuple[str, ...]) -> Rows:
    """Add where the ends of a drop's interval put the metric, with FP32's as measured."""
    return [row | {key: end for prefix in prefixes for key, end in _ends(row, sign, prefix)} for row in rows]


def _ends(row: Mapping[str, Any], sign: int, prefix: str) -> Iterator[tuple[str, float | None]]:
    ends = row[f"{prefix}drop_high"], row[f"{prefix}drop_low"]
    for name, drop in zip(("low", "high"), ends, strict=True):
        known = drop is not None
        yield f"{prefix}{name}", row[f"{prefix}value"] + sign * (row[f"{prefix}drop"] - drop) if known else None


def _plots(params: Params, rows: Rows, decision: Decision, by_soc: Rows) -> tuple[Rows, dict[str, Any]]:
    """Give the page's plots (title, ids of charts, note) and the specs of the charts by id."""
    plots: Rows = []
    specs: dict[str, Any] = {}

    def add(title: str, drawn: Mapping[str, Any], note: str = "", **more: Any) -> None:
        plots.append({"title": title, "charts": list(drawn), "note": note, "wide": False, "layers": [], **more})
        specs.update(drawn)

    rungs = ("fp16", *params.rungs())
    measured = [row for row in rows if row["target_value"] is not None]
    if measured:
        note = (
            "Diamond: chosen. Dotted: the front, which no other rung beats. Red: goals. Bars: how far it may be chance."
        )
        drawn = charts.pareto(measured, rungs, _floor(params, rows), params.goals.max_memory_bytes)
        add("Accuracy against memory", {"pareto": drawn}, note)
    if tried := [row for row in rows[1:] if row["value"] is not None]:
        floor = _floor(params, rows) if measured else None
        drawn = charts.off_and_on_target(tried, rows[0]["value"], floor)
        note = (
            f"Grey: FP32, {figure(rows[0]['value'])}. Red: the goal. Bars: where the drop's interval puts the metric."
        )
        add("Simulated and on target", {"gap": drawn}, note)
    if by_soc:
        drawn = charts.by_soc([row for row in by_soc if row["value"] is not None], rungs)
        add("On every SoC", {"socs": drawn}, "What a SoC does not take is not drawn.")
    add("Latency beside published networks", *beside_published(rows, params.soc))
    history = _histories(params)
    if history:
        add("Quantization-aware training", {"qat": charts.qat_curves(history, rows[0]["metric"], rungs)})
    layers = [{**row, "rung": rung} for rung in params.rungs() for row in _table(RungFiles(rung).layers)]
    if layers:
        note = "As exported, so after QAT where it ran; against FP32, on a few samples."
        if len({row["layer"] for row in layers}) > charts.LAYERS:
            note += f" The {charts.LAYERS} worst layers."
        add("SQNR by layer", {"sqnr": charts.sqnr_by_layer(layers, rungs)}, note)
    sensitive = _table(SENSITIVITY_ROWS)
    for column, title in (("sqnr_db", "SQNR of the outputs, dB"), ("drop", f"drop of {rows[0]['metric']}")):
        found = [row for row in sensitive if row[column] is not None]
        if found:
            note = "Each layer's weights, or activations, quantized alone. The most sensitive first."
            if len({row["layer"] for row in found}) > charts.LAYERS:
                note += f" The first {charts.LAYERS}."
            add("Sensitivity by layer", {"sensitivity": charts.sensitivity(found, column, title)}, note)
            break
    if layers:
        _add_ranges(add, layers, rungs, decision.chosen)
    return plots, specs


def _add_ranges(add: Any, layers: Rows, rungs: tuple[str, ...], chosen: str | None) -> None:
    _hand_back_fused(layers)
    names = list(dict.fromkeys(row["layer"] for row in layers if row["weight_min"] is not None))
    tried = [rung for rung in rungs if any(row["rung"] == rung for row in layers)]
    rung = chosen if chosen in tried else tried[-1]
    drawn = {f"range_{what}": charts.ranges(layers, what, rungs, names[0]) for what in ("weight", "output")}
    note = "Ranges that the exported quantizers cover. The output range is that of an activation fused with the layer."
    weights = _channels(RungFiles(rung).encodings, names)
    if weights:
        drawn["channels"] = charts.channels(weights, rung, names[0])
    else:
        note += f" Weights channel by channel need build/export/{rung}, which is not here: run `dvc pull`."
    add("Ranges of a layer", drawn, note, wide=True, layers=names)


def _hand_back_fused(layers: Rows) -> None:
    """Give a layer that has no output quantizer the range of the activation that is fused with it."""
    for row, following in pairwise(layers):
        if row["weight_min"] is not None and row["output_min"] is None and row["rung"] == following["rung"]:
            row |= {key: following[key] for key in ("outputs_bits", "output_min", "output_max")}


def _floor(params: Params, rows: Rows) -> float | None:
    """Give the value at which goals.max_drop ends, on target, by the first rung measured there."""
    row = next(row for row in rows if row["target_value"] is not None)
    higher = read_record(Evaluation, evaluated("fp32")).higher_is_better
    limit = params.goals.max_drop
    if limit is None:
        return params.goals.min_value
    sign = 1 if higher else -1
    floor: float = row["target_value"] + sign * row["target_drop"] - sign * limit
    return floor


def _histories(params: Params) -> Rows:
    rows = [{**row, "rung": rung} for rung in params.rungs() for row in _table(RungFiles(rung).qat_history)]
    return [row for row in rows if row["value"] is not None]


def _channels(path: Path, layers: Iterable[str]) -> Rows:
    """Give the weight range of every channel, from scales: an encoding of b bits spans 2^b steps."""
    encodings = read_json(path) if path.exists() else {}
    rows: Rows = []
    for layer in layers:
        encoding = encodings.get(f"{layer}.param_quantizers.weight")
        if encoding is None or "block_size" in encoding:  # with blocks, its scales are not channels'
            continue
        steps = 2 ** (encoding["bw"] - 1)
        rows += [
            {"layer": layer, "channel": index, "low": -steps * scale, "high": (steps - 1) * scale}
            for index, scale in enumerate(encoding["scale"])
        ]
    return rows


def _table(path: Path) -> Rows:
    """Read a CSV, numbers as numbers, empty fields as None; no rows where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(column: str, text: str) -> str | float | None:
    if column in {"layer", "kind", "what"}:  # a layer's name may be a number
        return text
    return float(text) if text else None

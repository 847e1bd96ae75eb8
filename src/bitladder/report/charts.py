"""The report's plots, as Vega-Lite specs. Each spans its container, so that a phone shows it too."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

__all__ = [
    "COLOURS",
    "Spec",
    "by_soc",
    "channels",
    "fitted",
    "off_and_on_target",
    "pareto",
    "qat_curves",
    "ranges",
    "sensitivity",
    "sqnr_by_layer",
    "tips",
]

Rows = Sequence[Mapping[str, Any]]
Spec = dict[str, Any]

COLOURS = ("#3b82c4", "#e08a2e", "#2a9d75", "#c2528b", "#8a6fd1", "#b0a12c", "#5aa9b8", "#a0705a")
"""Told apart by people with colour-blindness, on white and on black."""

GREY, RED = "#8a8f98", "#d1495b"

FORMAT = ".4~g"  # of a metric: without zeros at the end

KIB = 1024

SOC_FIELDS = ("rung", "soc", "value", "low", "high", "drop", "memory_bytes", "latency_ms")

LAYERS = 40  # more rows than this are not looked at: the worst are shown


def pareto(rows: Rows, rungs: Sequence[str], floor: float | None, max_memory_bytes: int | None) -> Spec:
    """Show accuracy on target against memory, a point a rung; the front as a line, goals as dashed lines.

    Args:
        rows: of the comparison, those with figures from the target.
        rungs: all, by which colours are given.
        floor: the worst value that the goals allow, if they say so.
        max_memory_bytes: the goal, if there is one.

    """
    points = [{**row, "memory": row["memory_bytes"] / KIB, "front": bool(row["pareto"])} for row in rows]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("memory:Q", title="context binary, KiB", scale=alt.Scale(zero=False, nice=True, padding=40)),
        y=alt.Y(
            "target_value:Q",
            title=f"{rows[0]['metric']} on target",
            scale=alt.Scale(zero=False, padding=24),
            axis=alt.Axis(format=FORMAT),
        ),
    )
    front = base.transform_filter("datum.front").mark_line(color=GREY, strokeDash=[2, 3], interpolate="linear")
    dots = base.mark_point(filled=True, opacity=1).encode(
        color=alt.Color("rung:N", scale=_rung_scale(rungs), legend=None),
        shape=alt.condition("datum.chosen", alt.value("diamond"), alt.value("circle")),
        size=alt.condition("datum.chosen", alt.value(260), alt.value(110)),
        tooltip=tips("rung", "precision", "technique", "target_value", "target_drop", "memory_bytes", "outcome"),
    )
    names = base.mark_text(dx=9, dy=-9, align="left", fontSize=12).encode(
        text="rung:N", color=alt.Color("rung:N", scale=_rung_scale(rungs), legend=None)
    )
    bars = base.encode(color=alt.Color("rung:N", scale=_rung_scale(rungs), legend=None))
    limits = [*_limit("y", floor), *_limit("x", max_memory_bytes and max_memory_bytes / KIB)]
    layers = [front, *limits, *_bars(bars, points, "y", "target_low", "target_high"), dots, names]
    return fitted(alt.layer(*layers), 300)


def off_and_on_target(rows: Rows, fp32: float, floor: float | None) -> Spec:
    """Show the metric of each rung simulated and on the target, with intervals; FP32 and the goal as lines."""
    places = ["simulated", "on target"]
    points = [
        {"rung": row["rung"], "where": where, **{key: row[f"{prefix}{key}"] for key in ("value", "low", "high")}}
        for row in rows
        for where, prefix in zip(places, ("", "target_"), strict=True)
        if row[f"{prefix}value"] is not None
    ]
    colour = alt.Color(
        "where:N",
        title=None,
        sort=places,
        scale=alt.Scale(domain=places, range=list(COLOURS[:2])),
        legend=alt.Legend(orient="top"),
    )
    y = alt.Y("rung:N", title=None, sort=[row["rung"] for row in rows])
    base = alt.Chart(alt.Data(values=points)).encode(y=y, yOffset=alt.YOffset("where:N", sort=places), color=colour)
    scale = alt.Scale(zero=False, padding=20)
    x = alt.X("value:Q", title=rows[0]["metric"], scale=scale, axis=alt.Axis(format=FORMAT))
    dots = base.mark_point(size=80, filled=True, opacity=1).encode(
        x=x,
        shape=alt.Shape("where:N", sort=places, legend=None),
        tooltip=tips("rung", "where", "value", "low", "high"),
    )
    lines = [*_limit("x", fp32, GREY), *_limit("x", floor)]
    return fitted(alt.layer(*lines, *_bars(base, points, "x"), dots), 44 * len(rows))


def by_soc(rows: Rows, rungs: Sequence[str]) -> Spec:
    """Show the metric of each rung on each SoC, a line of points a rung; rows as metrics/comparison-socs.csv has."""
    socs = list(dict.fromkeys(row["soc"] for row in rows))
    base = alt.Chart(alt.Data(values=[{key: row[key] for key in SOC_FIELDS} for row in rows])).encode(
        y=alt.Y("rung:N", title=None, sort=list(rungs)),
        yOffset=alt.YOffset("soc:N", sort=socs),
        color=alt.Color(
            "soc:N",
            title=None,
            sort=socs,
            scale=alt.Scale(domain=socs, range=list(COLOURS[: len(socs)])),
            legend=alt.Legend(orient="top", columns=2),
        ),
    )
    dots = base.mark_point(size=80, filled=True, opacity=1).encode(
        x=alt.X(
            "value:Q",
            title=f"{rows[0]['metric']} on target",
            scale=alt.Scale(zero=False, padding=20),
            axis=alt.Axis(format=FORMAT),
        ),
        tooltip=tips(*SOC_FIELDS),
    )
    return fitted(alt.layer(*_bars(base, rows, "x"), dots), (20 + 14 * len(socs)) * len({row["rung"] for row in rows}))


def qat_curves(rows: Rows, metric: str, rungs: Sequence[str]) -> Spec:
    """Show the metric on the held-out split by epoch, a line a rung; epoch 0 is PTQ."""
    chart = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_line(point=True)
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d"), title="epoch (0: PTQ)"),
            y=alt.Y("value:Q", title=f"{metric}, calibration split", scale=alt.Scale(zero=False)),
            color=alt.Color("rung:N", title=None, scale=_rung_scale(rungs), legend=_legend(rows)),
            tooltip=tips("rung", "epoch", "value", "train_loss"),
        )
    )
    return fitted(chart, 280)


def sqnr_by_layer(rows: Rows, rungs: Sequence[str]) -> Spec:
    """Show the SQNR of each layer's output, a point a rung; of a large network the worst layers."""
    worst: dict[str, float] = {}
    for row in rows:
        worst[row["layer"]] = min(row["sqnr_db"], worst.get(row["layer"], row["sqnr_db"]))
    shown = sorted(worst, key=lambda layer: worst[layer])[:LAYERS]
    order = [layer for layer in worst if layer in shown]
    points = [row for row in rows if row["layer"] in shown]
    y = alt.Y("layer:N", sort=order, title=None, axis=alt.Axis(labelLimit=130))
    base = alt.Chart(alt.Data(values=points))
    span = base.mark_rule(color=GREY, opacity=0.5).encode(y=y, x="min(sqnr_db):Q", x2="max(sqnr_db):Q")
    dots = base.mark_point(size=60, filled=True, opacity=1).encode(
        y=y,
        x=alt.X("sqnr_db:Q", title="SQNR of the layer's output, dB"),
        color=alt.Color("rung:N", title=None, scale=_rung_scale(rungs), legend=_legend(rows)),
        tooltip=tips("layer", "kind", "rung", "sqnr_db"),
    )
    return fitted(alt.layer(span, dots), 17 * len(order))


def sensitivity(rows: Rows, column: str, title: str) -> Spec:
    """Show what each layer alone costs when its weights or its activations are quantized; the most sensitive first.

    Args:
        rows: of metrics/sensitivity.csv: layer, what (weight or activation), bits, sqnr_db, value, drop.
        column: the figure to show, sqnr_db or drop.
        title: of its axis.

    """
    sign = 1 if column == "sqnr_db" else -1  # a low SQNR is bad, a low drop is good
    worst: dict[str, float] = {}
    for row in rows:
        worst[row["layer"]] = min(sign * row[column], worst.get(row["layer"], sign * row[column]))
    order = sorted(worst, key=lambda layer: worst[layer])[:LAYERS]
    parts = list(dict.fromkeys(row["what"] for row in rows))
    points = [{**row, "bits": f"{row['bits']:g} bits"} for row in rows if row["layer"] in order]
    y = alt.Y("layer:N", sort=order, title=None, axis=alt.Axis(labelLimit=130))
    base = alt.Chart(alt.Data(values=points))
    span = base.mark_rule(color=GREY, opacity=0.5).encode(y=y, x=f"min({column}):Q", x2=f"max({column}):Q")
    dots = base.mark_point(size=60, filled=True, opacity=1).encode(
        y=y,
        x=alt.X(f"{column}:Q", title=title),
        color=alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=parts, range=list(COLOURS[: len(parts)])),
            legend=alt.Legend(orient="top", columns=2),
        ),
        shape=alt.Shape(
            "bits:N",
            title=None,
            legend=alt.Legend(orient="top", columns=2, symbolFillColor=GREY, symbolStrokeColor=GREY),
        ),
        tooltip=tips("layer", "kind", "what", "bits", "sqnr_db", "value", "drop"),
    )
    return fitted(alt.layer(span, dots), 17 * len(order))


def ranges(rows: Rows, what: str, rungs: Sequence[str], layer: str) -> Spec:
    """Show a range of a layer, a bar a rung; `what` is weight or output, the page sets the signal `layer`."""
    points = [row for row in rows if row[f"{what}_min"] is not None]
    tried = [rung for rung in rungs if any(row["rung"] == rung for row in rows)]
    chosen = alt.param(name="layer", value=layer)
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_bar(height=12)
        .encode(
            y=alt.Y("rung:N", sort=list(rungs), title=None, scale=alt.Scale(domain=tried)),
            x=alt.X(f"{what}_min:Q", title=f"{what} range"),
            x2=f"{what}_max:Q",
            color=alt.Color("rung:N", scale=_rung_scale(rungs), legend=None),
            tooltip=tips("rung", f"{what}_min", f"{what}_max", "weights_bits" if what == "weight" else "outputs_bits"),
        )
        .add_params(chosen)
        .transform_filter("datum.layer == layer")
    )
    return fitted(chart, 30 * len(tried))


def channels(rows: Rows, rung: str, layer: str) -> Spec:
    """Show the weight range of each output channel of a layer; the page sets the signal `layer`."""
    chosen = alt.param(name="layer", value=layer)
    chart = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_rule(color=COLOURS[0], strokeWidth=2)
        .encode(
            x=alt.X("channel:Q", title="output channel", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("low:Q", title=f"weights, {rung}"),
            y2="high:Q",
            tooltip=tips("channel", "low", "high"),
        )
        .add_params(chosen)
        .transform_filter("datum.layer == layer")
    )
    return fitted(chart, 220)


def _bars(base: alt.Chart, points: Rows, axis: str, low: str = "low", high: str = "high") -> list[alt.Chart]:
    """Give the intervals, if there are any: of none, Vega finds no scale."""
    if all(point[low] is None for point in points):
        return []
    return [base.mark_rule(strokeWidth=1.5).encode(**{axis: f"{low}:Q", f"{axis}2": f"{high}:Q"})]


def _limit(axis: str, value: float | None, colour: str = RED) -> list[alt.Chart]:
    if value is None:
        return []
    rule = alt.Chart(alt.Data(values=[{"limit": value}])).mark_rule(color=colour, strokeDash=[6, 4])
    return [rule.encode(y="limit:Q") if axis == "y" else rule.encode(x="limit:Q")]


def _legend(rows: Rows) -> alt.Legend:
    # Two columns fit a phone
    return alt.Legend(orient="top", columns=2, values=list(dict.fromkeys(row["rung"] for row in rows)))


def _rung_scale(rungs: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(rungs), range=[COLOURS[index % len(COLOURS)] for index in range(len(rungs))])


def tips(*fields: str) -> list[alt.Tooltip]:
    """Show these fields of a mark that the pointer is on."""
    return [alt.Tooltip(field=field, type="nominal", title=field.replace("_", " ")) for field in fields]


def fitted(chart: Any, height: int) -> Spec:
    """Give the spec of a chart as wide as its container."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    sized = chart.properties(width="container", height=height, autosize=fit)
    spec: Spec = sized.to_dict(validate=False)  # half the time
    return spec

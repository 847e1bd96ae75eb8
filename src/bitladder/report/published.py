"""The latency of each rung beside what published networks take on the same device, by size: a log-log plot."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from bitladder.errors import UserError
from bitladder.latency.graph import read_ops
from bitladder.latency.table import published_measurements, published_work
from bitladder.latency.work import count_macs, sum_work
from bitladder.paths import RungFiles
from bitladder.report.charts import COLOURS, Spec, fitted, tips
from bitladder.socs import Soc

__all__ = ["beside_published"]

APART = 15  # pixels between rungs: all have the MACs of one network

DECADES = [10.0**power for power in range(-6, 6)]

Rows = Sequence[Mapping[str, Any]]


def beside_published(rows: Rows, soc: Soc) -> tuple[dict[str, Spec], str]:
    """Give the plot by its id, none where it is left out, and a note that says what it shows or why not.

    Args:
        rows: of the comparison, each with latency_low_ms and latency_high_ms.
        soc: target.soc.

    """
    rungs = [row for row in rows if row["latency_ms"] is not None]
    if soc.device is None:
        return {}, f"Left out: no latencies are published of {soc.name}."
    if not rungs:
        return {}, f"Left out: no rung has a latency on {soc.name}."
    macs = _macs(row["rung"] for row in rows)
    if macs is None:
        return {}, "Left out: it needs a graph of build/export, and there is none here: run `dvc pull`."
    if not macs:
        return {}, "Left out: the network has no MACs that are counted; those of an LSTM or GRU are not."
    shown = list(dict.fromkeys(row["precision"] for row in rungs))
    dots = [dot for dot in _published(soc.device) if dot["precision"] in shown]
    missing = [row["rung"] for row in rows if row["latency_ms"] is None and row["rung"] != "fp32"]
    note = (
        f"Dots: networks that Qualcomm published on {soc.device} ({soc.name}), in the rungs' precisions. Diamonds: the"
        f" rungs, side by side around their {macs / 1e9:.3g} GMACs. Bars: the 80 % interval of an estimate."
    )
    note += f" Without a latency, so not drawn: {', '.join(missing)}." if missing else ""
    return {"latency": _plot(dots, [{**row, "gmacs": macs / 1e9} for row in rungs], shown)}, note


def _macs(rungs: Iterable[str]) -> int | None:
    """Count the multiply-accumulates of the first exported graph that there is: all rungs are one network."""
    for path in (RungFiles(rung).model for rung in rungs):
        try:
            return count_macs(sum_work(read_ops(path)))
        except UserError:  # a rung that was left out has no graph
            continue
    return None


def _published(device: str) -> Iterator[dict[str, Any]]:
    for found in published_measurements():
        if found.device == device and (macs := count_macs(published_work()[found.graph])):
            yield {
                "network": found.graph,
                "precision": found.precision.upper(),
                "runtime": found.runtime,
                "gmacs": macs / 1e9,
                "latency_ms": found.latency_ms,
            }


def _plot(dots: Rows, rungs: Rows, precisions: Sequence[str]) -> Spec:
    scale = alt.Scale(domain=list(precisions), range=list(COLOURS[: len(precisions)]))
    colour = alt.Color("precision:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=3))
    axis = alt.Axis(format="~g", values=DECADES)
    x = alt.X("gmacs:Q", title="GMACs", scale=alt.Scale(type="log", padding=APART * (len(rungs) + 1) / 2), axis=axis)
    y = alt.Y("latency_ms:Q", title="latency, ms", scale=alt.Scale(type="log", padding=12), axis=axis)
    layers = [
        alt.Chart(alt.Data(values=list(dots)))
        .mark_point(size=26, filled=True, opacity=0.45)
        .encode(x=x, y=y, color=colour, tooltip=tips("network", "precision", "runtime", "gmacs", "latency_ms"))
    ]
    for index, rung in enumerate(rungs):
        aside = APART * (index - (len(rungs) - 1) / 2)
        base = alt.Chart(alt.Data(values=[rung])).encode(x=x, color=colour)
        if rung["latency_low_ms"] is not None:
            layers.append(
                base.mark_rule(strokeWidth=2, xOffset=aside).encode(y="latency_low_ms:Q", y2="latency_high_ms:Q")
            )
        told = ("rung", "precision", "latency_ms", "latency_low_ms", "latency_high_ms", "latency_source")
        diamond = base.mark_point(shape="diamond", size=150, filled=True, opacity=1, xOffset=aside)
        layers.append(diamond.encode(y=y, tooltip=tips(*told)))
        top = "latency_high_ms" if rung["latency_high_ms"] is not None else "latency_ms"
        name = base.mark_text(angle=270, align="left", dx=6, fontSize=12, xOffset=aside)
        layers.append(name.encode(y=f"{top}:Q", text="rung:N"))
    return fitted(alt.layer(*layers), 340)

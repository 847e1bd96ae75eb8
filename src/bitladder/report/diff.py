"""What changed between two revisions, for people: decision, params, figures, layers, files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

from tabulate import tabulate

from bitladder.decision.figures import figure, interval
from bitladder.decision.results import flat
from bitladder.paths import BUILD, RungFiles
from bitladder.records import RungDecision
from bitladder.report.change import PLACES, change_of, is_within_noise
from bitladder.report.revisions import Revision

__all__ = ["Diff", "diff", "format_diff", "lost"]

Row = tuple[str, ...]

OFF_TARGET = {"technique": "technique", "value": "{metric} off target", "sqnr_db": "SQNR dB off target"}
ON_TARGET = {
    "value": "{metric} on target",
    "gap": "gap to simulation",
    "memory_bytes": "context binary, bytes",
    "latency_ms": "latency, ms",
    "latency_source": "latency source",
}

SHIPPED = tuple(f"{BUILD}/{kind}/" for kind in ("export", "target", "socs", "train"))  # socs: up to version 0.1

NAMED = 4  # layers or files named before "and N more"


@dataclass(frozen=True)
class Section:
    """A table with a title. The columns after the first `keys` ones are before and after."""

    title: str
    columns: Row
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Diff:
    """What changed: sentences first, then tables, then what could not be compared."""

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    unseen: tuple[str, ...]


def diff(before: Revision, after: Revision) -> Diff:
    """Compare two revisions by what their git trees and the DVC cache hold."""
    rungs = tuple(dict.fromkeys((*before.rungs, *after.rungs)))
    sections = (
        Section("Params", ("key", "before", "after"), tuple(_params(before, after))),
        Section("Figures", ("rung", "figure", "before", "after", "change"), tuple(_figures(before, after, rungs))),
        Section(
            "Change or chance", ("rung", "where", "it is", "lost", "interval", "by"), tuple(_changes(before, after))
        ),
        Section("Layers as exported", ("rung", "what", "change"), tuple(_layers(before, after, rungs))),
        Section("Files", ("path", "before", "after", "change"), tuple(_files(before, after))),
    )
    summary = tuple(_summary(before, after))
    return Diff(
        f"{before.label} -> {after.label}",
        summary,
        tuple(section for section in sections if section.rows),
        tuple(dict.fromkeys(before.unseen + after.unseen)),
    )


def lost(before: Revision, after: Revision) -> str | None:
    """Say which goals held before and do not hold now; None if none was lost.

    A goal is lost where nothing meets the goals any more, or where the rung chosen before is still tried and misses.
    One that may be missed by chance alone is not lost.
    """
    was, now = (side.decision.chosen if side.decision else None for side in (before, after))
    if was is None or is_within_noise(before, after, was):
        return None
    entry = after.decision.of(was) if after.decision else None
    if entry and entry.misses:
        return f"{was}, chosen at {before.label}, no longer meets the goals: {'; '.join(entry.misses)}"
    return None if now else f"no rung meets the goals any more; at {before.label} {was} did"


def format_diff(found: Diff, form: str) -> str:
    """Write a diff as `text`, `markdown` or `html` (a page of its own)."""
    if form == "html":
        return _html(found)
    markdown = form == "markdown"
    parts = [f"### bitladder: {found.title}" if markdown else found.title, *found.summary]
    for section in found.sections:
        rows = [[_plain(cell) if markdown else cell for cell in row] for row in section.rows]
        table = tabulate(rows, section.columns, "pipe" if markdown else "simple", disable_numparse=True)
        parts.append(f"**{section.title}**\n\n{table}" if markdown else f"{section.title}\n{table}")
    if not found.sections:
        parts.append("Nothing else changed.")
    if found.unseen:
        parts.append("Not compared:\n" + "\n".join(f"- {line}" for line in found.unseen))
    return "\n\n".join(parts)


def _summary(before: Revision, after: Revision) -> Iterator[str]:
    old, new = before.decision, after.decision
    if not old or not new:
        yield "Decision: not known on both sides."
        return
    was, now = old.chosen, new.chosen
    if was == now:
        yield f"Decision: {now or 'no rung'}, as before. {new.reason}."
    else:
        yield f"Decision: {was or 'no rung'} -> {now or 'no rung'}. {new.reason}."
    entry = new.of(was)
    if missed := lost(before, after):
        yield f"Lost: {missed}."
    elif entry and entry.misses:
        yield f"Within noise: {was} misses goals, and may do so by chance: {'; '.join(entry.misses)}."
    for entry in (entry for entry in new.trail if entry.rung not in {was, now}):
        earlier = old.of(entry.rung)
        if earlier and _state(earlier) != _state(entry):
            yield f"{entry.rung}: {_state(earlier)} -> {entry.outcome}."


def _state(entry: RungDecision) -> str:
    if (word := entry.outcome.partition(":")[0]) in ("skipped", "refused"):
        return word
    return "misses goals" if entry.misses else "meets every goal"


def _params(before: Revision, after: Revision) -> Iterator[Row]:
    old, new = flat(before.params), flat(after.params)
    for key in dict.fromkeys((*old, *new)):
        if old.get(key, _ABSENT) != new.get(key, _ABSENT):
            yield key, _shown(old.get(key, _ABSENT)), _shown(new.get(key, _ABSENT))


def _figures(before: Revision, after: Revision, rungs: Row) -> Iterator[Row]:
    for rung in rungs:
        on = [side.on_target(rung) for side in (before, after)]
        found = [*_compared(OFF_TARGET, [side.off_target(rung) for side in (before, after)])]
        found += _compared(ON_TARGET, on)
        old, new = (record.socs if record else {} for record in on)
        for soc in dict.fromkeys((*old, *new)):
            both = _compared(ON_TARGET, (old.get(soc), new.get(soc)))
            found += [(f"{soc}: {figure}", *cells) for figure, *cells in both]
        yield from ((rung, figure.format(metric=before.metric), *cells) for figure, *cells in found)


def _changes(before: Revision, after: Revision) -> Iterator[Row]:
    """Say of each rung's metric whether it changed beyond chance."""
    for entry in after.decision.trail if after.decision else ():
        for where in PLACES:
            change = change_of(before, after, entry.rung, where)
            if change and change.kind != "unchanged":
                ends = interval(change.low, change.high)
                yield entry.rung, where, change.kind, figure(change.loss, "+"), ends, change.method


def _compared(names: Mapping[str, str], both: Sequence[object]) -> Iterator[Row]:
    for key, name in names.items():
        was, now = (getattr(record, key, None) for record in both)
        if was != now:
            yield name, _number(was), _number(now), _change(was, now)


def _layers(before: Revision, after: Revision, rungs: Row) -> Iterator[Row]:
    for rung in rungs[1:]:
        if rung not in before.rungs or rung not in after.rungs:
            continue
        old, new = before.layers(rung), after.layers(rung)
        if bool(old) != bool(new):
            side = after if old else before
            side.unseen.append(f"{RungFiles(rung).layers} at {side.label}: not there, or the rung was left out")
        both = [layer for layer in new if layer in old]
        for kind in ("weights", "outputs"):
            bits = [name for name in both if old[name][f"{kind}_bits"] != new[name][f"{kind}_bits"]]
            if bits:
                first = bits[0]
                change = f"{old[first][f'{kind}_bits'] or '-'} -> {new[first][f'{kind}_bits'] or '-'} bits"
                same = {(old[name][f"{kind}_bits"], new[name][f"{kind}_bits"]) for name in bits}
                others = "" if len(same) == 1 else f" in {first}, others otherwise"
                yield rung, kind, f"{change}{others}: {_named(bits, len(both))}"
        gains = {name: float(new[name]["sqnr_db"]) - float(old[name]["sqnr_db"]) for name in both}
        if gains and old != new:
            most = max(gains, key=lambda name: abs(gains[name]))
            sides = " -> ".join(f"{float(side[most]['sqnr_db']):.1f}" for side in (old, new))
            yield rung, "SQNR", f"median {median(gains.values()):+.1f} dB; {most} {sides} dB, the most"
        yield from _scales(before, after, rung)


def _scales(before: Revision, after: Revision, rung: str) -> Iterator[Row]:
    """Compare the scales of every quantizer, where their file's hash says that they differ."""
    paths = before.encodings_path(rung), after.encodings_path(rung)
    hashes = [side.outputs.get(path, {}).get("md5") for side, path in zip((before, after), paths, strict=True)]
    if hashes[0] == hashes[1]:
        return
    old, new = before.encodings(rung), after.encodings(rung)
    if not old or not new:
        return
    ratios = {
        name: max(abs(b / a - 1) for a, b in zip(old[name]["scale"], new[name]["scale"], strict=True))
        for name in new
        if name in old and len(old[name]["scale"]) == len(new[name]["scale"])
    }
    changed = [name for name, ratio in ratios.items() if ratio]
    if changed:
        most = max(changed, key=lambda name: ratios[name])
        change = f"{len(changed)} of {len(ratios)} quantizers; {most} by {ratios[most]:.1%}, the most"
        yield rung, "scales", change


def _files(before: Revision, after: Revision) -> Iterator[Row]:
    moved = []
    for path in dict.fromkeys((*before.outputs, *after.outputs)):
        old, new = before.outputs.get(path, {}), after.outputs.get(path, {})
        shipped = path.startswith(SHIPPED) and not path.endswith(("outputs.safetensors", "encodings.json"))
        if not shipped or old.get("md5") == new.get("md5"):
            continue
        if old.get("size") == new.get("size"):
            moved.append(path)
        else:
            yield path, _number(old.get("size")), _number(new.get("size")), _change(old.get("size"), new.get("size"))
    if moved:
        yield _named(moved, None), "", "", "same size, other content"


def _named(names: list[str], total: int | None) -> str:
    if len(names) == total:
        return f"all {total} layers"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


_ABSENT = object()


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else "null" if value is None else str(value)


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return figure(value) if isinstance(value, float) else "-" if value is None else str(value)


def _change(old: Any, new: Any) -> str:
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return ""
    if isinstance(old, int) and isinstance(new, int):
        return f"{new - old:+,} ({new / old - 1:+.1%})" if old else f"{new - old:+,}"
    return figure(new - old, "+")


def _plain(cell: str) -> str:
    return cell.replace("|", "\\|")


def _html(found: Diff) -> str:
    tables = "".join(
        f"<h2>{escape(section.title)}</h2>" + tabulate(section.rows, section.columns, "html", disable_numparse=True)
        for section in found.sections
    )
    summary = "".join(f"<p>{escape(line)}</p>" for line in found.summary)
    unseen = "".join(f"<li>{escape(line)}</li>" for line in found.unseen)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>bitladder diff {escape(found.title)}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:24px auto;padding:0 14px}"
        "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{text-align:left;padding:4px 12px 4px 0;"
        "border-bottom:1px solid #8884}h1{font-size:20px}h2{font-size:16px}</style></head><body>"
        f"<h1>{escape(found.title)}</h1>{summary}{tables}"
        + (f"<h2>Not compared</h2><ul>{unseen}</ul>" if unseen else "")
        + "</body></html>\n"
    )

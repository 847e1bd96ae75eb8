"""Whether a rung's metric changed between two revisions, or whether that may be chance."""

import math
from dataclasses import dataclass
from typing import Literal

from bitladder.paths import RungFiles, samples
from bitladder.records import RungDecision
from bitladder.report.revisions import Revision
from bitladder.statistics.paired import compare_paired
from bitladder.statistics.scores import NETWORK, Scores, read_scores

__all__ = ["PLACES", "Change", "change_of", "is_within_noise"]

Kind = Literal["improved", "unchanged", "worse", "within noise"]

PAIRED, APART = "the same samples, one by one", "the intervals of both drops"

PLACES = {"off target": "", "on target": "target_"}
"""Where a rung is measured, and the names of its figures there."""


@dataclass(frozen=True)
class Change:
    """What became of a metric; `loss` is by how much it is worse, and `low` and `high` are the ends of its interval."""

    kind: Kind
    loss: float
    low: float
    high: float
    method: str


def change_of(before: Revision, after: Revision, rung: str, where: str) -> Change | None:
    """Say how a rung's metric changed off target or on `target.soc`; None where one side has no interval.

    Scores that the DVC cache has of both sides are compared sample by sample, if the samples are the same. Else the two
    drops are compared, by the ends of both intervals (G. Y. Zou and A. Donner, Statistics in Medicine 27, 2008).
    """
    entries = [side.decision.of(rung) if side.decision else None for side in (before, after)]
    if entries[0] is None or entries[1] is None:
        return None
    pair = _scores(before, rung, where), _scores(after, rung, where)
    if pair[0] and pair[1] and pair[0].samples == pair[1].samples and _have_same_samples(before, after):
        confidence = entries[1].goals.confidence or 0.95
        found = compare_paired(pair[0], pair[1], after.higher_is_better, confidence)
        if found.low is not None and found.high is not None:
            return _change(found.difference, found.low, found.high, PAIRED, found.lost == found.won == 0)
    was, now = (_drop(entry, PLACES[where]) for entry in entries if entry)
    if was is None or now is None:
        return None
    loss = now[1] - was[1]
    low = loss - math.hypot(now[1] - now[0], was[2] - was[1])
    high = loss + math.hypot(now[2] - now[1], was[1] - was[0])
    return _change(loss, low, high, APART, was == now)


def is_within_noise(before: Revision, after: Revision, rung: str) -> bool:
    """Whether nothing but chance may be why a rung misses its goals now.

    So it is where no goal fails beyond chance (undecided ones are judged by what was measured), and where the metric
    has changed, and nowhere for the worse beyond chance.
    """
    entry = after.decision.of(rung) if after.decision else None
    if entry is None or entry.goals.undecided != "accept" or any(one.verdict == "fails" for one in entry.verdicts):
        return False
    kinds = {change.kind if change else None for change in (change_of(before, after, rung, where) for where in PLACES)}
    return "within noise" in kinds and not kinds & {"worse", None}


def _change(loss: float, low: float, high: float, method: str, same: bool) -> Change:
    kind: Kind = "unchanged" if same else "worse" if low > 0 else "improved" if high < 0 else "within noise"
    return Change(kind, loss, low, high, method)


def _drop(entry: RungDecision, prefix: str) -> tuple[float, float, float] | None:
    """Give the lower end of a drop's interval, the drop, and the upper end."""
    low, drop, high = (getattr(entry.measured, prefix + name) for name in ("drop_low", "drop", "drop_high"))
    return None if low is None or drop is None or high is None else (low, drop, high)


def _scores(side: Revision, rung: str, where: str) -> Scores | None:
    files = RungFiles(rung)
    found = side.built(files.scores if where == "off target" else files.target_scores(side.soc))
    return read_scores(found).get(NETWORK) if found else None


def _have_same_samples(before: Revision, after: Revision) -> bool:
    path = str(samples("evaluation"))
    digests = [side.outputs.get(path, {}).get("md5") for side in (before, after)]
    return digests[0] is not None and digests[0] == digests[1]

"""Published networks of mixed precision beside estimates of the same graphs without a raised op.

Qualcomm names the share of layers that it raised, not which, so an estimate by the bits of each op cannot be held
against these latencies. What can be told is how much longer they are than an estimate that counts no op as raised, and
whether they lie within the intervals of the two precisions that are mixed.

    python benchmarks/published_mixed.py --published published_latency_065.csv
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from published_work import COPIES

from bitladder.latency.estimate import Estimate, devices, estimate_work
from bitladder.latency.table import RUNTIMES, published_work

MIXES = {
    "w8a8_mixed_int16": ("w8a8", "w8a16"),
    "w8a16_mixed_int16": ("w8a16", "w8a16"),  # nothing is published at w16a16
    "w8a16_mixed_fp16": ("w8a16", "fp16"),
}
"""The precision that is mixed with another, and the other."""


@dataclass(frozen=True)
class Point:
    """A published latency, and the estimates at the two precisions of its mix."""

    ms: float
    low: Estimate
    high: Estimate

    @property
    def ratio(self) -> float:
        """Published / estimated without a raised op."""
        return self.ms / self.low.latency_ms

    @property
    def within_low(self) -> bool:
        """Whether it lies in the interval of that estimate."""
        return self.low.low_ms <= self.ms <= self.low.high_ms

    @property
    def within_either(self) -> bool:
        """Whether it lies between the ends of both intervals."""
        return min(self.low.low_ms, self.high.low_ms) <= self.ms <= max(self.low.high_ms, self.high.high_ms)


def main() -> None:
    """Print a line for each network, then for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, required=True, help="published_latency_065.csv")
    found: dict[str, list[Point]] = defaultdict(list)
    for name, point in points(parser.parse_args().published):
        found[name].append(point)
    for name, own in sorted(found.items()):
        print(line(name, own))
    print(line(f"all {len(found)}", [point for own in found.values() for point in own]))


def points(published: Path) -> Iterator[tuple[str, Point]]:
    """Give the latencies of graphs whose work is known, all ops on the NPU, on devices with both precisions."""
    work = published_work()
    with published.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            on_npu = not int(row["layers_cpu"] or 0) and row["runtime"] in RUNTIMES and row["device"] not in COPIES
            if not on_npu or row["precision"] not in MIXES or row["model"] not in work:
                continue
            mix = MIXES[row["precision"]]
            if set(mix) <= set(devices()[row["device"]]):
                low, high = (estimate_work({precision: work[row["model"]]}, row["device"]) for precision in mix)
                yield f"{row['model']} {row['precision']}", Point(float(row["latency_ms"]), low, high)


def line(name: str, own: list[Point]) -> str:
    """Sum up some points."""
    ratio = np.median([point.ratio for point in own])
    within = [np.mean([getattr(point, key) for point in own]) for key in ("within_low", "within_either")]
    return f"{name}: {len(own)} points, ratio {ratio:.2f}, within {within[0]:.0%}, with the other {within[1]:.0%}"


if __name__ == "__main__":
    main()

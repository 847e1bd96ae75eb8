"""How often the intervals of a drop hold the truth, on simulated data sets whose truth is known.

    python benchmarks/intervals.py            # docs/benchmarks.md's tables; 5 minutes of a CPU
    python benchmarks/intervals.py --cost     # what a comparison costs beside the pass that scores its samples

A data set is N samples drawn anew. Of right-or-wrong metrics the two networks disagree on a share of them, of which the
second loses more than it wins. Others draw what a sample loses from a skewed law, or score whole data sets by RMSE or
average precision.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product

import numpy as np
import torch
from tabulate import tabulate

from bitladder.network.scoring import score
from bitladder.statistics.paired import Paired, compare_paired
from bitladder.statistics.scores import Scores, leave_out
from bitladder.statistics.verdict import samples_to_settle
from bitladder.tasks.builtin.mnist import accuracy, network
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Split

CONFIDENCE = 0.95
SIZES = (50, 200, 1_000)
DISAGREE = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
LOST = {"held, as many lost as won": 0.5, "held, 3 in 4 lost": 0.75}
SHARE = 0.3  # of positives, where average precision is the metric
DIGITS = 2_000

Generator = np.random.Generator
Draw = Callable[[Generator, int], tuple[Paired, float]]


def outcomes(generator: Generator, samples: int, disagree: float, lost: float) -> tuple[Paired, float]:
    """Draw a right-or-wrong data set; give the comparison, and the drop that is true."""
    kinds = generator.choice(
        4, samples, p=[disagree * lost, disagree * (1 - lost), 0.9 * (1 - disagree), 0.1 * (1 - disagree)]
    )
    before, after = np.isin(kinds, (0, 2)), np.isin(kinds, (1, 2))
    return compared(before.astype(float), after.astype(float)), disagree * (2 * lost - 1)


def means(generator: Generator, samples: int) -> tuple[Paired, float]:
    """Draw a metric with a value for each sample; what a sample loses is skewed, as errors are."""
    before = generator.beta(8, 2, samples)
    return compared(before, before - 0.02 * generator.gamma(2.0, 1.0, samples)), 0.04


def roots(generator: Generator, samples: int) -> tuple[Paired, float]:
    """Draw errors, whose root mean square has no value for a sample."""
    first = generator.normal(0, 1.0, samples)
    second = first + generator.normal(0, 0.5, samples)
    rmse = lambda errors: float(np.sqrt(np.mean(errors**2)))  # noqa: E731
    return whole(rmse, first, second, False), float(np.sqrt(1.25) - 1.0)


def precisions(generator: Generator, samples: int) -> tuple[Paired, float]:
    """Draw scores of positives and others, whose average precision has no value for a sample."""
    positive = generator.random(samples) < SHARE
    first = 1.5 * positive + generator.normal(0, 1.0, samples)
    pairs = [np.stack([positive, one], 1) for one in (first, first + generator.normal(0, 0.5, samples))]
    return whole(average_precision, *pairs, True), precisions_truth()


@cache
def precisions_truth() -> float:
    """Find the true loss of average precision, from a million samples."""
    positive = np.arange(10**6) < SHARE * 10**6
    normal = np.random.default_rng(1).normal(0, 1.0, len(positive))
    first, second = (1.5 * positive + spread * normal for spread in (1.0, 1.25**0.5))
    return average_precision(np.stack([positive, first], 1)) - average_precision(np.stack([positive, second], 1))


def average_precision(pairs: np.ndarray) -> float:
    """Give the average precision of rows of (is positive, score)."""
    positive = pairs[np.argsort(-pairs[:, 1], kind="stable"), 0]
    found = np.cumsum(positive) / np.arange(1, len(positive) + 1)
    return float(found[positive > 0].mean())


def whole(metric: Callable, first: np.ndarray, second: np.ndarray, higher_is_better: bool) -> Paired:
    """Compare two networks by a metric of all rows."""
    scores = [
        Scores(len(rows), metric(rows), left_out=leave_out(lambda kept, rows=rows: metric(rows[kept]), len(rows)))
        for rows in (first, second)
    ]
    return compare_paired(*scores, higher_is_better, CONFIDENCE)


def compared(before: np.ndarray, after: np.ndarray) -> Paired:
    """Compare per-sample values."""
    first, second = (Scores(len(values), float(values.mean()), values) for values in (before, after))
    return compare_paired(first, second, True, CONFIDENCE)


def coverage(work: tuple[Draw, tuple, int, int]) -> tuple[float, float]:
    """Give how often the interval holds the truth, and its mean width."""
    draw, arguments, samples, sets = work
    generator, held, width = np.random.default_rng(0), 0, 0.0
    for _ in range(sets):
        found, truth = draw(generator, samples, *arguments)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
        width += found.high - found.low
    return held / sets, width / sets


def cost() -> None:
    """Print what a comparison and its number of samples take, beside a pass over as many digits: the quickest network.

    Every other digit is relabelled, so that the metric's values differ and each kind of interval has work to do.
    """
    torch.manual_seed(0)
    digits = Split({"image": torch.rand(DIGITS, 1, 28, 28)}, torch.randint(10, (DIGITS,)))
    first, second = network().eval(), network().eval()
    metrics = {
        "right or wrong": accuracy,
        "mean of values": lambda logits, targets: torch.nn.functional.cross_entropy(logits, targets, reduction="none"),
        "of all samples": lambda logits, targets: float(logits[:, 0].std()),
    }
    rows = []
    for name, compute in metrics.items():
        metric = Metric("it", compute)
        score(second, digits, metric, 256, "warm", first)
        start = time.process_time()
        found = score(second, digits, metric, 256, "pass", first)
        scored = time.process_time()
        paired = compare_paired(found.reference_scores, found.scores, True, CONFIDENCE)
        samples_to_settle(paired, 0.005, CONFIDENCE)
        took = time.process_time() - scored
        rows.append([name, f"{scored - start:.3f}", f"{took:.4f}", f"{took / (scored - start):.1%}", paired.method])
    columns = ["metric", "pass, CPU s", "comparison, CPU s", "of the pass", "interval"]
    print(tabulate(rows, columns, "github", disable_numparse=True))


def main() -> None:
    """Simulate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2_000, help="data sets a row")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cost", action="store_true", help="measure time alone")
    options = parser.parse_args()
    if options.cost:
        cost()
        return
    binary = [(outcomes, (share, lost), n, options.sets) for n, share, lost in product(SIZES, DISAGREE, LOST.values())]
    others = [(means, (), n, options.sets) for n in SIZES]
    others += [(draw, (), n, options.sets) for draw, n in product((roots, precisions), SIZES)]
    with ProcessPoolExecutor(options.workers) as pool:
        found = list(pool.map(coverage, binary + others))
    rows = []
    for index in range(0, len(binary), len(LOST)):
        _, (share, _), n, _ = binary[index]
        held = [f"{one:.1%}" for one, _ in found[index : index + len(LOST)]]
        rows.append([n, f"{share:.1%}", f"{n * share:g}", *held, f"{found[index][1]:.4f}"])
    columns = ["samples", "disagree", "that is", *LOST, "mean width"]
    print(tabulate(rows, columns, "github", disable_numparse=True), end="\n\n")
    kinds = {means: "mean of skewed values", roots: "RMSE", precisions: "average precision"}
    rows = [
        [kinds[draw], n, sets, f"{held:.1%}", f"{width:.4f}"]
        for (draw, _, n, sets), (held, width) in zip(others, found[len(binary) :], strict=True)
    ]
    print(
        tabulate(
            rows,
            ["metric", "samples", "data sets", "holds the truth", "mean width", "s"],
            "github",
            disable_numparse=True,
        )
    )


if __name__ == "__main__":
    main()

"""A quantized network tried on samples that nothing was fitted to: whether it is enough, and better than a cheaper one.

The evaluation split has no part in it: what is chosen on samples looks better on them than it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bitladder.network.evaluate import Comparison, Outputs, compare, predict
from bitladder.network.per_sample import scores_of
from bitladder.statistics.limits import allowed, is_within
from bitladder.statistics.paired import gain
from bitladder.statistics.scores import Scores
from bitladder.tasks.task import Metric, Split

__all__ = ["Score", "Trial", "scorer"]


@dataclass(frozen=True)
class Trial:
    """What a network came to beside FP32, whose metric on the same samples is `reference`."""

    found: Comparison
    scores: Scores
    reference: float
    higher_is_better: bool

    def is_enough(self, max_drop: float | None, max_relative_drop: float | None) -> bool:
        """Whether the drop is within what is allowed; without a limit, nothing is enough."""
        limit = allowed(self.reference, max_drop, max_relative_drop)
        return limit is not None and is_within(self.found.drop, limit)

    def displaces(self, cheaper: "Trial") -> bool:
        """Whether this does better than a cheaper one by more than chance: by a standard error of the difference.

        Where the metric is the same on every sample, it tells nothing, and SQNR decides.
        """
        gained, error = gain(cheaper.scores, self.scores, self.higher_is_better)
        if gained == error == 0:
            assert self.found.sqnr_db is not None and cheaper.found.sqnr_db is not None
            return self.found.sqnr_db > cheaper.found.sqnr_db
        return gained > error


Score = Callable[[nn.Module], Trial]


def scorer(metric: Metric, model: nn.Module, split: Split, batch_size: int) -> Score:
    """Give a function that tries a sim of a prepared network on a split."""
    reference: Outputs = predict(model, split, batch_size, "fp32")
    value = metric(reference, split.targets)

    def score(sim: nn.Module) -> Trial:
        outputs = predict(sim, split, batch_size, "score")
        found = compare(metric, outputs, reference, split.targets)
        return Trial(found, scores_of(metric, outputs, split.targets), value, metric.higher_is_better)

    return score

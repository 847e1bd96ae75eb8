"""A quantized network tried on samples that nothing was fitted to: whether it is enough, and better than a cheaper one.

The evaluation split has no part in it: what is chosen on samples looks better on them than it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from bitladder.errors import UserError
from bitladder.network.evaluate import Comparison
from bitladder.network.scoring import Score, reference_of, score
from bitladder.params import Params
from bitladder.statistics.limits import allowed, is_within
from bitladder.statistics.paired import gain
from bitladder.statistics.scores import Scores
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Samples

__all__ = ["Trial", "Try", "divide", "trier"]


@dataclass(frozen=True)
class Scored:
    """What a trial is judged by of a Score: without the metric's own states, which may hold all outputs."""

    comparison: Comparison
    reference_value: float
    scores: Scores


@dataclass(frozen=True)
class Trial:
    """What a network came to beside FP32."""

    result: Score | Scored
    higher_is_better: bool

    def brief(self) -> "Trial":
        """Give the same, fit to be sent to another machine."""
        own = self.result
        return replace(self, result=Scored(own.comparison, own.reference_value, own.scores))

    @property
    def found(self) -> Comparison:
        """The figures."""
        return self.result.comparison

    def is_enough(self, max_drop: float | None, max_relative_drop: float | None) -> bool:
        """Whether the drop is within what is allowed; without a limit, nothing is enough."""
        limit = allowed(self.result.reference_value, max_drop, max_relative_drop)
        return limit is not None and is_within(self.found.drop, limit)

    def displaces(self, cheaper: "Trial") -> bool:
        """Whether this does better than a cheaper one by more than chance: by a standard error of the difference.

        Where the metric is the same on every sample, it tells nothing, and SQNR decides.
        """
        gained, error = gain(cheaper.result.scores, self.result.scores, self.higher_is_better)
        if gained == error == 0:
            assert self.found.sqnr_db is not None and cheaper.found.sqnr_db is not None
            return self.found.sqnr_db > cheaper.found.sqnr_db
        return gained > error


Try = Callable[[nn.Module], Trial]


def trier(metric: Metric, model: nn.Module, samples: Samples, batch_size: int, work: Path) -> Try:
    """Give a function that tries a sim of a prepared network on samples."""
    reference = reference_of(model, samples, batch_size, work / "fp32")
    return lambda sim: Trial(score(sim, samples, metric, batch_size, "score", reference), metric.higher_is_better)


def divide(calibration: Samples, params: Params, rung: str) -> tuple[Samples, Samples]:
    """Give the samples that a rung's techniques are fitted to, and those that they are scored on.

    Raises UserError where none are left to score on, and the rung's params ask for scores.
    """
    own = params.ptq_of(rung)
    rest = calibration.after(own.samples)
    if not len(rest) and (own.techniques == "auto" or params.ladder[rung].mixed):
        raise UserError(
            f"ptq.samples: {own.samples} leaves none of the {len(calibration)} calibration samples to score {rung} on;"
            " lower it, or give the task a larger calibration split"
        )
    return calibration.first(own.samples), rest

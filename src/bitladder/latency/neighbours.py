"""What the features do not see, taken from published networks of like make-up: they miss by like amounts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bitladder.latency.table import published_work
from bitladder.latency.work import features

__all__ = ["Neighbours", "is_near"]

WIDTH = 0.16  # distance between shares of cost at which a network counts for little
DOUBT = 0.15  # weight of the belief that the features miss nothing
PLACE = "Samsung Galaxy S24"  # where shares are compared; unit costs differ little in proportion between devices


@dataclass(frozen=True)
class Neighbours:
    """The residuals of published networks, by graph and precision, and unit costs by device and precision."""

    residuals: Mapping[tuple[str, str], float]
    unit: Mapping[tuple[str, str], np.ndarray]

    def correction(self, precision: str, costs: np.ndarray) -> tuple[float, float]:
        """Give the mean residual of networks whose costs have like shares, and the weight of those networks."""
        own = np.sqrt(costs / costs.sum())
        total = weighted = 0.0
        for (graph, at), residual in self.residuals.items():
            if at != precision:
                continue
            parts = self.unit[PLACE, at] * features(published_work()[graph], at)
            weight = float(np.exp(-((own - np.sqrt(parts / parts.sum())) ** 2).sum() / (2 * WIDTH**2)))
            total, weighted = total + weight, weighted + weight * residual
        return weighted / (total + DOUBT), total


def is_near(weight: float) -> bool:
    """Whether there are published networks like it."""
    return weight > 1

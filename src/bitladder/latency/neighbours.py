"""What the features do not see, taken from published networks of like make-up: they miss by like amounts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bitladder.latency.table import Place, Residuals, published_work
from bitladder.latency.work import features

__all__ = ["Neighbours", "is_near"]

WIDTH = 0.13  # distance between shares of cost at which a network counts for little
DOUBT = 0.15  # weight of the belief that the features miss nothing
OWN = 0.7  # weight of what a network missed on the very device, beside the median of all devices
PLACE = "Samsung Galaxy S24"  # where shares are compared; unit costs differ little in proportion between devices


@dataclass(frozen=True)
class Neighbours:
    """The residuals of published networks, and unit costs by device and precision."""

    residuals: Residuals
    unit: Mapping[Place, np.ndarray]

    def weights(self, values: np.ndarray, precision: str) -> dict[str, float]:
        """Give how much each published graph counts for one with these features: much where costs have like shares."""
        own = self._shares(values, precision)
        others = {graph: features(published_work()[graph], at) for graph, at in self.residuals if at == precision}
        distances = {graph: ((own - self._shares(of, precision)) ** 2).sum() for graph, of in others.items()}
        return {graph: float(np.exp(-distance / (2 * WIDTH**2))) for graph, distance in distances.items()}

    def correction(self, weights: Mapping[str, float], precision: str, device: str | None) -> float:
        """Give the mean residual of like networks, on this device where they were measured there."""
        weighted = 0.0
        for graph, weight in weights.items():
            found = self.residuals[graph, precision]
            typical = float(np.median(list(found.values())))
            weighted += weight * (OWN * found.get(device or "", typical) + (1 - OWN) * typical)
        return weighted / (sum(weights.values()) + DOUBT)

    def _shares(self, values: np.ndarray, precision: str) -> np.ndarray:
        costs = self.unit[PLACE, precision] * values
        shares: np.ndarray = np.sqrt(costs / costs.sum())
        return shares


def is_near(weights: Mapping[str, float]) -> bool:
    """Whether there are published networks like it."""
    return sum(weights.values()) > 1

"""What the features do not see, taken from published networks of like make-up: they miss by like amounts.

A Gaussian process over residuals: two networks are alike where like shares of their latency go to each feature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from bitladder.latency.table import Kernel, Place, Residuals, published_work
from bitladder.latency.work import features

__all__ = ["Neighbours", "is_near"]

NEAR = 0.7  # spread below which like networks explain half of the variance
PLACE = "Samsung Galaxy S24"  # where shares are compared; unit costs differ little in proportion between devices


@dataclass(frozen=True)
class Neighbours:
    """The residuals of published networks, and unit costs by device and precision."""

    residuals: Residuals
    unit: Mapping[Place, np.ndarray]
    kernel: Kernel

    def weights(self, values: Mapping[str, np.ndarray], precision: str) -> tuple[np.ndarray, float]:
        """Say what a network takes from published ones.

        Args:
            values: its features, by the precision of the operations that they are of.
            precision: the one that it is mostly of.

        Returns: how much each of `residuals` counts; the spread that they leave, 1 where nothing like it was published.

        """
        like = self._likeness(self._shares(values)[None], (precision,))[:, 0]
        weights = np.linalg.solve(self.covariance, like)
        return weights, float(np.sqrt(1 - like @ weights + self.kernel.noise))

    def correction(self, weights: np.ndarray, device: str | None) -> float:
        """Give the weighted residual, of this device where a network was measured there, else of the median one."""
        own = [of.get(device or "", typical) for of, typical in zip(self.residuals.values(), self.typical, strict=True)]
        return float(weights @ np.array(own))

    @cached_property
    def typical(self) -> np.ndarray:
        """The median residual of each graph and precision over its devices."""
        return np.array([float(np.median(list(of.values()))) for of in self.residuals.values()])

    @cached_property
    def covariance(self) -> np.ndarray:
        """How much the residuals are alike, each beside its own noise; 1 is the variance of all of them."""
        likeness = self._likeness(self._published, [precision for _, precision in self.residuals])
        return likeness + self.kernel.noise * np.eye(len(likeness))

    @cached_property
    def _published(self) -> np.ndarray:
        return np.array([self._shares({of[1]: _features(*of)}) for of in self.residuals])

    def _likeness(self, shares: np.ndarray, precisions: Sequence[str]) -> np.ndarray:
        distances = ((self._published[:, None] - shares[None]) ** 2).sum(2)
        same = np.array([at for _, at in self.residuals])[:, None] == np.array(precisions)[None]
        likeness: np.ndarray = np.exp(-distances / (2 * self.kernel.width**2)) * np.where(same, 1, self.kernel.shared)
        return likeness

    def _shares(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        costs = np.sum([self.unit[PLACE, precision] * of for precision, of in values.items()], axis=0)
        shares: np.ndarray = np.sqrt(costs / costs.sum())
        return shares


@cache
def _features(graph: str, precision: str) -> np.ndarray:
    return features(published_work()[graph], precision)


def is_near(spread: float) -> bool:
    """Whether networks like it were published."""
    return spread < NEAR

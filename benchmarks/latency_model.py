"""The latency model and its fit: a sum of costs, each a product of factors that devices and precisions share.

    value(device, precision) = sum over features of  amount x unit cost
    log unit cost = belief + feature + feature@precision + device + device@part + device@part@precision

Every factor but the device's own has a narrow normal prior around nothing: what one device or precision has not shown
is taken from the others. Errors are relative, and outliers count less. Peak memory is fitted in the same way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

__all__ = ["Belief", "Model", "fit"]

ERROR = 0.2  # relative error at which a measurement is good, and past which it counts as an outlier
DEVICE, DEVICE_PART, DEVICE_PART_PRECISION = 1.0, 0.3, 0.08  # spreads of the priors
STEPS = 40
ENOUGH = 1e-5  # relative gain of a step below which the fit is done

HOPELESS = 1e9  # damping past which no step helps any more

_NOTHING = 1e-12  # stands for zero under a logarithm

Place = tuple[str, str]  # device and precision


@dataclass(frozen=True)
class Belief:
    """What a unit of a feature should cost on a phone of 2024, and how surely.

    `unit` is the mean and `spread` the standard deviation, of the logarithm, before fitting; `by_precision` is the
    spread of what each precision changes of it.
    """

    part: str
    unit: Mapping[str, float]
    spread: float = 0.7
    by_precision: float = 0.15


@dataclass(frozen=True)
class Model:
    """Fitted unit costs by place, and the factors they are made of."""

    unit: dict[Place, np.ndarray]
    factors: dict[tuple[str, ...], float]

    def value(self, place: Place, values: np.ndarray) -> float:
        """Estimate what a graph with these feature values takes on a device at a precision."""
        return float(self.unit[place] @ values)


@threadpool_limits.wrap(limits=1)  # small matrices: threads only get in each other's way, and change the last bits
def fit(
    beliefs: Mapping[str, Belief],
    places: Sequence[Place],
    values: np.ndarray,
    measured: np.ndarray,
    start: Model | None = None,
) -> Model:
    """Fit the model to measurements, by damped Gauss-Newton with reweighting; deterministic.

    Args:
        beliefs: by feature.
        places: device and precision of each measurement.
        values: features of its graph, measurements x features.
        measured: what was measured: ms, or MB.
        start: a model to start from, such as one of more measurements.

    """
    known = sorted(set(places))
    chosen, offset, spreads = _design(known, beliefs)
    rows = np.array([known.index(place) for place in places])
    offsets, target, all_rows = np.log(values + _NOTHING), np.log(measured), np.arange(len(rows))
    tightness = 1 / np.array(list(spreads.values())) ** 2

    def log_unit(factors: np.ndarray) -> np.ndarray:
        return factors[chosen].sum(2) + offset

    def cost(factors: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        parts = np.exp(log_unit(factors)[rows] + offsets)
        total = parts.sum(1)
        errors = (np.log(total) - target) / ERROR
        loss = 2 * float((np.sqrt(1 + errors**2) - 1).sum()) + float(tightness @ factors**2)
        return loss, errors, parts / total[:, None]

    factors, damping = np.array([start.factors.get(name, 0.0) if start else 0.0 for name in spreads]), 1e-3
    loss, errors, shares = cost(factors)
    for _ in range(STEPS):
        weights = 1 / np.sqrt(1 + errors**2)
        jacobian = np.zeros((len(rows), len(factors)))
        for feature, slot in np.ndindex(*chosen.shape[1:]):
            jacobian[all_rows, chosen[rows, feature, slot]] += shares[:, feature] / ERROR
        curvature = jacobian.T @ (jacobian * weights[:, None]) + np.diag(tightness)
        slope = jacobian.T @ (weights * errors) + tightness * factors
        while damping < HOPELESS:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), slope)
            tried = cost(factors - step)
            if tried[0] <= loss:
                break
            damping *= 4
        else:
            break
        gain, factors, damping = loss - tried[0], factors - step, max(damping / 4, 1e-6)
        loss, errors, shares = tried
        if gain < ENOUGH * loss:
            break
    unit = dict(zip(known, np.exp(log_unit(factors)), strict=True))
    return Model(unit, dict(zip(spreads, factors.tolist(), strict=True)))


def _design(
    places: Sequence[Place], beliefs: Mapping[str, Belief]
) -> tuple[np.ndarray, np.ndarray, dict[tuple[str, ...], float]]:
    """Say which factors make up each place's unit costs.

    Returns: their indices, places x features x 5; the beliefs, places x features; each factor's spread.
    """
    spreads: dict[tuple[str, ...], float] = {}
    chosen = []
    for device, precision in places:
        for name, belief in beliefs.items():
            made_of = {
                ("feature", name): belief.spread,
                ("feature", name, precision): belief.by_precision,
                ("device", device): DEVICE,
                ("device", device, belief.part): DEVICE_PART,
                ("device", device, belief.part, precision): DEVICE_PART_PRECISION,
            }
            spreads |= made_of
            chosen.append(list(made_of))
    columns = {factor: column for column, factor in enumerate(spreads)}
    indices = np.array([[columns[factor] for factor in made_of] for made_of in chosen])
    offset = [[math.log(belief.unit[precision]) for belief in beliefs.values()] for _, precision in places]
    return indices.reshape(len(places), len(beliefs), -1), np.array(offset), spreads

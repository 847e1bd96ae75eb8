"""Fit latency and peak memory to what Qualcomm published, and measure the fit on networks that it has not seen.

Reads published_latency.csv and published_work.csv of latency/data, and writes the other files there: unit costs,
residuals and how they are alike, reach of the intervals, and the errors on left-out networks. Each network is left out
with all its components, precisions and devices, and the kernel is chosen anew without it.

Run after benchmarks/published_work.py or a change of the features: python benchmarks/latency_fit.py (some minutes)
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from latency_model import Belief, Model, fit
from threadpoolctl import threadpool_limits

from bitladder.latency.memory import MEMORY_FEATURES, memory_features
from bitladder.latency.neighbours import Neighbours
from bitladder.latency.table import Kernel, Measurement, published_measurements, published_work
from bitladder.latency.work import FEATURES, PRECISIONS, features
from bitladder.running.files import write_csv
from bitladder.socs import all_socs, siblings

DATA = Path(__file__).parents[1] / "src/bitladder/latency/data"
COVERAGE = 0.82  # of left-out points, for intervals that are meant to hold 80 %: a new network differs more than these

OP = 0.0014  # ms
UNIT = {"graph": 0.25, "quantized_input": 0.1, "weight_bytes": 1.5, "border_bytes": 5.0}
UNIT |= dict.fromkeys(("matrix_ops", "vector_ops", "pool_ops", "move_ops"), OP)
UNIT["recurrent_steps"] = 8 * OP  # two products, three sigmoids, two tanh and a sum: a step is as many operations
UNIT |= {"spilled_bytes": 3.0, "norm_bytes": 5.0, "softmax_bytes": 5.0, "window_taps": 10.0, "concat_bytes": 0.1}
UNIT |= dict.fromkeys(("matrix_bytes", "depthwise_bytes", "pointwise_bytes"), 0.2)
UNIT |= dict.fromkeys(("curve_bytes", "pool_bytes", "move_bytes"), 0.3)
RATES = {"macs": 0.09, "attention_macs": 0.3}  # ms for 10^9 at 16 bits; half of it at 8 bits
BY_PRECISION = {"graph": 0.5, "macs": 0.3, "border_bytes": 0.3, "spilled_bytes": 0.3}
BY_PRECISION["attention_macs"] = 1.0  # published networks with attention are no faster at 8 bits than at 16
SURE = {"fixed": 0.5, "matrix": 0.5}
OF_LATENCY = {
    name: Belief(
        of.part,
        {p: RATES[name] / (1 + (p == "w8a8")) if name in RATES else UNIT[name] for p in PRECISIONS},
        SURE.get(of.part, 0.7),
        BY_PRECISION.get(name, 0.15),
    )
    for name, of in FEATURES.items()
}
OF_MEMORY = {
    name: Belief(name, dict.fromkeys(PRECISIONS, unit), 1.0, 0.5)
    for name, unit in zip(MEMORY_FEATURES, (20.0, 0.01, 0.3, 0.3), strict=True)
}
KERNEL = [field.name for field in fields(Kernel)]
KERNELS = [Kernel(width, shared=0.7, noise=0.05) for width in (0.2, 0.25, 0.3)]  # by more, chance chooses


@dataclass(frozen=True)
class LeftOut:
    """A measurement, what a fit without its network says of it, and the spread that networks like it leave."""

    of: Measurement
    measured: float
    estimated: float
    spread: float = 1.0

    @property
    def error(self) -> float:
        """Estimated / measured, as a logarithm."""
        return float(np.log(self.estimated / self.measured))


@threadpool_limits.wrap(limits=1)  # small matrices: threads only get in each other's way
def main() -> None:
    """Fit, leave networks out, and write the files."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    measured = published_measurements()
    ms, mb = np.array([m.latency_ms for m in measured]), np.array([m.memory_mb for m in measured])
    amounts = np.array([features(published_work()[m.graph], m.precision, m.converts) for m in measured])
    sizes = np.array([memory_features(published_work()[m.graph], m.precision) for m in measured])
    known = np.isfinite(mb)
    latency = fit(OF_LATENCY, _places(measured), amounts, ms)
    memory = fit(OF_MEMORY, _places(_chosen(measured, known)), sizes[known], mb[known])
    write_units("unit_costs.csv", list(FEATURES), latency)
    write_units("memory_costs.csv", list(MEMORY_FEATURES), memory)
    neighbours = _neighbours(latency, measured, amounts)
    devices = sorted({m.device for m in measured})
    rows: list[dict[str, str]] = [
        {"graph": graph, "precision": precision, **{d: f"{of[d]:.3f}" if d in of else "" for d in devices}}
        for (graph, precision), of in neighbours.residuals.items()
    ]
    write_csv(DATA / "kernel.csv", KERNEL, [{key: str(value) for key, value in asdict(neighbours.kernel).items()}])
    write_csv(DATA / "residuals.csv", ["graph", "precision", *devices], rows)
    left, left_memory = [], []
    for name in sorted({m.model for m in measured}):
        rest = np.array([m.model != name for m in measured])
        fitted = fit(OF_LATENCY, _places(_chosen(measured, rest)), amounts[rest], ms[rest], latency)
        seen = _neighbours(fitted, _chosen(measured, rest), amounts[rest])
        both = rest & known
        fitted_memory = fit(OF_MEMORY, _places(_chosen(measured, both)), sizes[both], mb[both], memory)
        for i in np.flatnonzero(~rest):
            place = measured[i].place
            if place not in fitted.unit:
                continue
            # Networks are compared as bitladder makes them: all convert their input
            weights, spread = seen.weights(
                {place[1]: features(published_work()[measured[i].graph], place[1])}, place[1]
            )
            value = fitted.value(place, amounts[i]) * np.exp(seen.correction(weights, place[0]))
            left.append(LeftOut(measured[i], ms[i], value, spread))
            if known[i] and place in fitted_memory.unit:
                left_memory.append(LeftOut(measured[i], mb[i], fitted_memory.value(place, sizes[i])))
        print(name, *(f"{x.error:+.2f}" for x in left if x.of.model == name and x.of.device == "Samsung Galaxy S24"))
    write_reach(left, left_memory, latency, measured, amounts)
    rows = [
        {
            **{key: getattr(x.of, key) for key in ("model", "component", "family", "device", "precision", "runtime")},
            "spread": f"{x.spread:.3f}",
            "measured_ms": f"{x.measured:.4g}",
            "estimated_ms": f"{x.estimated:.4g}",
        }
        for x in left
    ]
    write_csv(DATA / "left_out.csv", list(rows[0]), rows)


def write_units(file: str, names: Sequence[str], model: Model) -> None:
    """Write the unit costs of each device and precision."""
    rows = [
        {"device": device, "precision": precision, **dict(zip(names, (f"{u:.5g}" for u in units), strict=True))}
        for (device, precision), units in model.unit.items()
    ]
    write_csv(DATA / file, ["device", "precision", *names], rows)


def write_reach(
    left: Sequence[LeftOut],
    left_memory: Sequence[LeftOut],
    latency: Model,
    measured: Sequence[Measurement],
    amounts: np.ndarray,
) -> None:
    """Write how far intervals reach, as a logarithm: by precision, for memory, and between siblings."""
    rows = []
    for precision in PRECISIONS:
        errors = [x.error / x.spread for x in left if x.of.precision == precision]
        rows.append({"what": "latency", "precision": precision, **_quantile(errors)})
        errors = [x.error for x in left_memory if x.of.precision == precision]
        rows.append({"what": "memory", "precision": precision, **_quantile(errors)})
        rows.append({"what": "sibling", "precision": precision, **_quantile(_sibling_errors(latency, precision))})
    write_csv(DATA / "reach.csv", ["what", "precision", "reach", "points"], rows)


def _sibling_errors(latency: Model, precision: str) -> list[float]:
    """Say how far a device's estimates are off the mean of the other devices of its Hexagon generation."""
    generation = {soc.device: soc.arch for soc in all_socs().values()}
    errors = []
    for device, at in latency.unit:
        others = [d for d in siblings(generation[device]) if d != device and (d, precision) in latency.unit]
        if at != precision or not others:
            continue
        for work in published_work().values():
            amount = features(work, precision)
            logs = [np.log(latency.value((other, precision), amount)) for other in others]
            errors.append(float(np.mean(logs) - np.log(latency.value((device, precision), amount))))
    return errors


def _quantile(errors: Iterable[float]) -> dict[str, str]:
    found = np.abs(list(errors))
    return {"reach": f"{np.quantile(found, COVERAGE):.4f}", "points": str(len(found))}


def _neighbours(model: Model, measured: Sequence[Measurement], amounts: np.ndarray) -> Neighbours:
    """Give each network's residuals (measured / estimated on each device, as a logarithm), under the best kernel."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for m, amount in zip(measured, amounts, strict=True):
        ratio = m.latency_ms / model.value(m.place, amount)
        found.setdefault((m.graph, m.precision), {})[m.device] = float(np.log(ratio))
    return min((Neighbours(found, model.unit, kernel) for kernel in KERNELS), key=_misses)


def _misses(neighbours: Neighbours) -> float:
    """Give the mean error on each network's residuals from those of all other networks."""
    models = np.array([graph.partition("/")[0] for graph, _ in neighbours.residuals])
    inverse = np.linalg.inv(neighbours.covariance)
    pulls = inverse @ neighbours.typical
    errors = []
    for model in sorted(set(models)):
        own = models == model
        errors += np.abs(np.linalg.solve(inverse[np.ix_(own, own)], pulls[own])).tolist()
    return float(np.mean(errors))


def _places(measured: Iterable[Measurement]) -> list[tuple[str, str]]:
    return [m.place for m in measured]


def _chosen(measured: Sequence[Measurement], mask: np.ndarray) -> list[Measurement]:
    return [m for m, chosen in zip(measured, mask, strict=True) if chosen]


if __name__ == "__main__":
    main()

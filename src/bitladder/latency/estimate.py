"""Latency and peak memory of an ONNX model on a device that is not at hand: a value, an interval, and their basis.

Everything fitted is on file (table.py); an estimate is sums and products.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from bitladder.errors import UserError
from bitladder.latency.graph import read_ops
from bitladder.latency.memory import memory_features
from bitladder.latency.neighbours import Neighbours, is_near
from bitladder.latency.table import kernel, memory_costs, reach, residuals, unit_costs
from bitladder.latency.work import PRECISIONS, Work, features, sum_by_precision, sum_work
from bitladder.socs import Soc, all_socs, normalised, siblings

__all__ = ["COVERAGE", "MIXED", "RUNTIME", "Estimate", "devices", "estimate", "estimate_all", "estimate_work"]

COVERAGE = 0.8
"""Share of models that an interval is meant to hold."""

FEW = 10
"""Networks published on a device at a precision, under which an estimate is trusted no more than one from siblings."""

MIXED = "mixed"
"""Asked for instead of a precision: each operation counts at the bits that the graph's quantizers give it."""

RUNTIME = "qnn_dlc or precompiled_qnn_onnx"


WorkByPrecision = Mapping[str, Mapping[str, Work]]


@dataclass(frozen=True)
class Estimate:
    """Latency in ms and peak memory in MB; each interval holds COVERAGE of models that were left out of the fit.

    `device` is the one whose published latencies it rests on, or the SoC where it rests on `siblings`: devices of the
    same Hexagon generation, with a wider interval. `near`: whether networks like this one were published; `few`:
    whether fewer than FEW were published of the device, which widens the interval as much. `precision` is such as
    `w8a16 + w8a8` of a graph with operations at both.
    """

    device: str
    precision: str
    latency_ms: float
    low_ms: float
    high_ms: float
    memory_mb: float
    memory_low_mb: float
    memory_high_mb: float
    near: bool
    few: bool
    siblings: tuple[str, ...] = ()
    runtime: str = RUNTIME

    @property
    def basis(self) -> str:
        """Say in words what it rests on."""
        of = f"devices of its Hexagon generation ({', '.join(self.siblings)})" if self.siblings else self.device
        few = f", fewer than {FEW} networks" if self.few else ""
        mixed = ", none of them of such a mix of precisions" if "+" in self.precision else ""
        like = "" if self.near else ", none of them of a network like this one"
        return f"published latencies of {of}{few}{mixed}{like}"


def devices() -> dict[str, tuple[str, ...]]:
    """Give each device that has published latencies, and the precisions there are of it."""
    names = sorted({device for device, _ in unit_costs()})
    return {name: tuple(precision for precision in PRECISIONS if (name, precision) in unit_costs()) for name in names}


def estimate(model: Path, device: str, precision: str) -> Estimate:
    """Estimate the latency of an ONNX model (float, FP16 or QDQ) at fp16, w8a8 or w8a16, or at its own bits: MIXED.

    `device` is a device or a SoC. Raises UserError for an unknown one or another precision, and for a graph that cannot
    be read.
    """
    return estimate_work(_read(model, precision), device)


def estimate_work(work: WorkByPrecision, device: str) -> Estimate:
    """Estimate the latency of a graph by the work of its operations at each precision."""
    return _estimate(work, *_find_place(device, tuple(work)))


def estimate_all(model: Path, precision: str) -> list[Estimate]:
    """Estimate the latency on each device with published latencies at this precision, the fastest first."""
    work = _read(model, precision)
    found = [_estimate(work, name, (name,)) for name, known in devices().items() if set(work) <= set(known)]
    return sorted(found, key=lambda of: of.latency_ms)


def _read(model: Path, precision: str) -> WorkByPrecision:
    precision = precision.lower()
    if precision != MIXED:
        _refuse_unknown(precision, f"use one of {', '.join((*PRECISIONS, MIXED))}")
    ops = read_ops(model)
    if all(op.kind == "border" for op in ops):
        raise UserError("the graph holds no operation, so there is no latency to estimate")
    work = sum_by_precision(ops) if precision == MIXED else {precision: sum_work(ops)}
    for found in work:
        _refuse_unknown(found, "some operations of this graph compute so")
    return work


def _refuse_unknown(precision: str, advice: str) -> None:
    if precision.startswith("w4"):
        raise UserError(
            f"no latencies are published at {precision}; Qualcomm publishes W4 of language models only. Estimate w8 of"
            " the same activations instead"
        )
    if precision not in PRECISIONS:
        raise UserError(f"no latencies are published at {precision}; {advice}")


def _find_place(name: str, precisions: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Give the device of this name or with the SoC of this name, and the devices that stand in for it where need be."""
    for device, known in devices().items():
        if normalised(device) == normalised(name):
            for precision in precisions:
                if precision not in known:
                    raise UserError(f"{device} has no published latencies at {precision}; it has {', '.join(known)}")
            return device, (device,)
    soc = next((soc for soc in all_socs().values() if soc.is_called(name)), None)
    if soc is None:
        raise UserError(
            f"{name!r} is no device with published latencies; use one of {', '.join(devices())}, or a SoC of"
            f" {', '.join(sorted(all_socs()))}"
        )
    if soc.device in devices():
        return _find_place(soc.device or "", precisions)
    return soc.name, _stand_ins(soc, precisions)


def _stand_ins(soc: Soc, precisions: tuple[str, ...]) -> tuple[str, ...]:
    for precision in precisions:
        if precision.upper() not in soc.takes:
            raise UserError(f"{soc.name} does not take {precision.upper()}; it takes {', '.join(soc.takes)}")
    found = tuple(device for device in siblings(soc.arch) if set(precisions) <= set(devices().get(device, ())))
    if not found:
        raise UserError(
            f"{soc.name} has no published latencies at {' + '.join(precisions)}, and nor has any other {soc.arch} chip"
        )
    return found


@cache
def _neighbours() -> Neighbours:
    return Neighbours(residuals(), unit_costs(), kernel())


def _estimate(work: WorkByPrecision, name: str, measured: tuple[str, ...]) -> Estimate:
    values = {precision: features(of, precision) for precision, of in work.items()}
    costs = {p: [float(unit_costs()[device, p] @ of) for device in measured] for p, of in values.items()}
    precision = max(costs, key=lambda p: sum(costs[p]))  # the one that most of the time goes to
    totals = np.sum(list(costs.values()), axis=0)
    borrowed = measured != (name,)
    weights, spread = _neighbours().weights(values, precision)
    correction = _neighbours().correction(weights, None if borrowed else name)
    ms = float(np.exp(np.log(totals).mean() + correction))
    mb = float(np.exp(np.mean([np.log(_memory(work, device)) for device in measured])))
    # Two independent errors: that of the network, and that of taking siblings for the device
    published = sum(name in of for (_, at), of in residuals().items() if at == precision)
    few = not borrowed and published < FEW
    wider = reach()["sibling", precision] if borrowed or few else 0.0
    factor = float(np.exp(np.hypot(spread * reach()["latency", precision], wider)))
    of_memory = float(np.exp(np.hypot(reach()["memory", precision], wider)))
    return Estimate(
        name,
        " + ".join(sorted(work)),
        *(ms, ms / factor, ms * factor),
        *(mb, mb / of_memory, mb * of_memory),
        is_near(spread),
        few,
        measured if borrowed else (),
    )


def _memory(work: WorkByPrecision, device: str) -> float:
    return float(sum(memory_costs()[device, p] @ memory_features(of, p) for p, of in work.items()))

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
from bitladder.latency.work import PRECISIONS, Work, features, sum_work
from bitladder.socs import Soc, all_socs, normalised, siblings

__all__ = ["COVERAGE", "RUNTIME", "Estimate", "devices", "estimate", "estimate_all"]

COVERAGE = 0.8
"""Share of models that an interval is meant to hold."""

FEW = 10
"""Networks published on a device at a precision, under which an estimate is trusted no more than one from siblings."""

RUNTIME = "qnn_dlc or precompiled_qnn_onnx"


@dataclass(frozen=True)
class Estimate:
    """Latency in ms and peak memory in MB; each interval holds COVERAGE of models that were left out of the fit.

    `device` is the one whose published latencies it rests on, or the SoC where it rests on `siblings`: devices of the
    same Hexagon generation, with a wider interval. `near`: whether networks like this one were published; `few`:
    whether fewer than FEW were published of the device, which widens the interval as much.
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
        return f"published latencies of {of}{few}" + ("" if self.near else ", none of them of a network like this one")


def devices() -> dict[str, tuple[str, ...]]:
    """Give each device that has published latencies, and the precisions there are of it."""
    names = sorted({device for device, _ in unit_costs()})
    return {name: tuple(precision for precision in PRECISIONS if (name, precision) in unit_costs()) for name in names}


def estimate(model: Path, device: str, precision: str) -> Estimate:
    """Estimate the latency of an ONNX model (float, FP16 or QDQ) at fp16, w8a8 or w8a16.

    `device` is a device or a SoC. Raises UserError for an unknown one or another precision, and for a graph that cannot
    be read.
    """
    return _estimate(_read(model), *_find_place(device, _known(precision)))


def estimate_all(model: Path, precision: str) -> list[Estimate]:
    """Estimate the latency on each device with published latencies at this precision, the fastest first."""
    work, precision = _read(model), _known(precision)
    found = [_estimate(work, name, (name,), precision) for name, known in devices().items() if precision in known]
    return sorted(found, key=lambda of: of.latency_ms)


def _known(precision: str) -> str:
    precision = precision.lower()
    if precision.startswith("w4"):
        raise UserError(
            f"no latencies are published at {precision}; Qualcomm publishes W4 of language models only. Estimate w8 of"
            " the same activations instead"
        )
    if precision not in PRECISIONS:
        raise UserError(f"no latencies are published at {precision}; use one of {', '.join(PRECISIONS)}")
    return precision


def _read(model: Path) -> dict[str, Work]:
    work = sum_work(read_ops(model))
    if not sum(of.ops for kind, of in work.items() if kind != "border"):
        raise UserError("the graph holds no operation, so there is no latency to estimate")
    return work


def _find_place(name: str, precision: str) -> tuple[str, tuple[str, ...], str]:
    """Give the device of this name or with the SoC of this name, and the devices that stand in for it where need be."""
    for device, precisions in devices().items():
        if normalised(device) == normalised(name):
            if precision not in precisions:
                raise UserError(f"{device} has no published latencies at {precision}; it has {', '.join(precisions)}")
            return device, (device,), precision
    soc = next((soc for soc in all_socs().values() if soc.is_called(name)), None)
    if soc is None:
        raise UserError(
            f"{name!r} is no device with published latencies; use one of {', '.join(devices())}, or a SoC of"
            f" {', '.join(sorted(all_socs()))}"
        )
    if soc.device in devices():
        return _find_place(soc.device or "", precision)
    return soc.name, _stand_ins(soc, precision), precision


def _stand_ins(soc: Soc, precision: str) -> tuple[str, ...]:
    if precision.upper() not in soc.takes:
        raise UserError(f"{soc.name} does not take {precision.upper()}; it takes {', '.join(soc.takes)}")
    found = tuple(device for device in siblings(soc.arch) if (device, precision) in unit_costs())
    if not found:
        raise UserError(f"{soc.name} has no published latencies at {precision}, and nor has any other {soc.arch} chip")
    return found


@cache
def _neighbours() -> Neighbours:
    return Neighbours(residuals(), unit_costs(), kernel())


def _estimate(work: Mapping[str, Work], name: str, measured: tuple[str, ...], precision: str) -> Estimate:
    values, sizes = features(work, precision), memory_features(work, precision)
    costs = np.array([unit_costs()[device, precision] * values for device in measured])
    borrowed = measured != (name,)
    weights, spread = _neighbours().weights(values, precision)
    correction = _neighbours().correction(weights, None if borrowed else name)
    ms = float(np.exp(np.log(costs.sum(1)).mean() + correction))
    mb = float(np.exp(np.mean([np.log(memory_costs()[device, precision] @ sizes) for device in measured])))
    # Two independent errors: that of the network, and that of taking siblings for the device
    published = sum(name in of for (_, at), of in residuals().items() if at == precision)
    few = not borrowed and published < FEW
    wider = reach()["sibling", precision] if borrowed or few else 0.0
    factor = float(np.exp(np.hypot(spread * reach()["latency", precision], wider)))
    of_memory = float(np.exp(np.hypot(reach()["memory", precision], wider)))
    return Estimate(
        name,
        precision,
        *(ms, ms / factor, ms * factor),
        *(mb, mb / of_memory, mb * of_memory),
        is_near(spread),
        few,
        measured if borrowed else (),
    )

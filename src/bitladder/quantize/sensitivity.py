"""Which layers cost the metric: each quantized on its own, weights and activations apart, the rest in float."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn
from tqdm import tqdm

from bitladder.network.scoring import Reference, reference_of, score
from bitladder.params import SensitivityParams
from bitladder.precision import Precision
from bitladder.quantize.sim.layers import What
from bitladder.quantize.sim.sim import build_sim
from bitladder.records import SensitivitySummary
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Samples, held

__all__ = ["ALL", "Sensitivity", "measure", "summarise"]

ALL = "(all)"
"""Stands for all layers at once: what weights alone, or activations alone, cost."""

WORST = 5


@dataclass(frozen=True)
class Sensitivity:
    """One layer's weights or activations at so many bits, all else in float: what it costs."""

    layer: str
    kind: str
    what: What
    bits: int
    value: float
    drop: float
    sqnr_db: float


def measure(
    model: nn.Module,
    sample: tuple[Tensor, ...],
    split: Samples,
    config: str,
    params: SensitivityParams,
    batch_size: int,
    metric: Metric,
) -> list[Sensitivity]:
    """Measure every layer's weights and activations at every bit-width that `params` asks for.

    Args:
        model: prepared, in FP32.
        sample: a batch of one.
        split: samples to find ranges from, and to measure on.
        config: of the QuantSim.
        params: bit-widths and samples.
        batch_size: samples at a time.
        metric: the task's.

    """
    split = held(split.first(params.samples))
    with TemporaryDirectory() as folder:
        reference = reference_of(model, split, batch_size, Path(folder))
        return _measure(model, sample, split, config, params, batch_size, metric, reference)


def _measure(
    model: nn.Module,
    sample: tuple[Tensor, ...],
    split: Samples,
    config: str,
    params: SensitivityParams,
    batch_size: int,
    metric: Metric,
    reference: Reference,
) -> list[Sensitivity]:
    rows: list[Sensitivity] = []
    asked: Iterable[tuple[What, int]] = [
        *(("weight", bits) for bits in params.weights),
        *(("activation", bits) for bits in params.activations),
    ]
    for what, bits in asked:
        sim = build_sim(model, sample, Precision(bits, 8) if what == "weight" else Precision(8, bits), config)
        sim.calibrate(split, batch_size)
        kinds = sim.layers(what)
        groups = {ALL: list(kinds), **{name: [name] for name in kinds}}
        for name, group in tqdm(groups.items(), desc=f"{what}s at {bits} bits", unit="layer"):
            with sim.isolated(group, what):
                found = score(sim.model, split, metric, batch_size, name, reference).comparison
            assert found.sqnr_db is not None
            rows.append(Sensitivity(name, kinds.get(name, ""), what, bits, found.value, found.drop, found.sqnr_db))
    return rows


def summarise(rows: list[Sensitivity]) -> SensitivitySummary:
    """Say what a user needs to know first: whether weights or activations cost more, and the five worst layers.

    Compared are the fewest bits that were asked for of each.
    """
    fewest = {what: min(row.bits for row in rows if row.what == what) for what in ("weight", "activation")}
    at = [row for row in rows if row.bits == fewest[row.what]]
    whole = {row.what: row for row in at if row.layer == ALL}
    worse = min(whole, key=lambda what: whole[what].sqnr_db)
    worst = sorted((row for row in at if row.layer != ALL and row.what == worse), key=lambda row: row.sqnr_db)[:WORST]
    named = ", ".join(f"{row.layer} ({row.sqnr_db:.1f} dB)" for row in worst)
    says = (
        f"The network is {worse}-sensitive: {fewest['weight']}-bit weights alone leave {whole['weight'].sqnr_db:.1f} dB"
        f" (drop {whole['weight'].drop:+.4f}), {fewest['activation']}-bit activations alone"
        f" {whole['activation'].sqnr_db:.1f} dB (drop {whole['activation'].drop:+.4f}). Worst: {named}."
    )
    return SensitivitySummary(sensitive_to=worse, summary=says, worst=tuple(row.layer for row in worst))

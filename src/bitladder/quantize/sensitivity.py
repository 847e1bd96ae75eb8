"""Which layers cost the metric: each quantized on its own, weights and activations apart, the rest in float."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn
from tqdm import tqdm

from bitladder.network.model import sample_inputs
from bitladder.network.scoring import Reference, reference_of, score
from bitladder.params import Params, SensitivityParams
from bitladder.paths import PREPARED
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import load_prepared
from bitladder.quantize.sim.layers import What
from bitladder.quantize.sim.sim import Sim, build_sim
from bitladder.records import SensitivitySummary
from bitladder.running.determinism import seed_all
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Samples, held
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["ALL", "Layers", "Sensitivity", "asked", "load_layers", "measure", "summarise"]

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
    with TemporaryDirectory() as folder:
        layers = Layers.of(model, sample, split.first(params.samples), config, batch_size, metric, Path(folder))
        return layers.measure_all(params)


def load_layers(params: Params, folder: Path) -> "Layers":
    """Load what the stages before have left in build/; keep FP32's outputs in a folder."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    # Not the evaluation split: what is chosen by these figures must not have been seen by the ones that are reported
    calibration = load_samples(task, params, "calibration")
    sample = sample_inputs(calibration)
    model = load_prepared(task, sample, PREPARED, params.prepare.exclude)
    split, config = calibration.first(params.sensitivity.samples), params.soc.quantsim_config
    return Layers.of(model, sample, split, config, params.evaluate.batch_size, task.metric, folder)


def asked(params: SensitivityParams) -> list[tuple[What, int]]:
    """Give what is quantized, and to how many bits."""
    weights: list[tuple[What, int]] = [("weight", bits) for bits in params.weights]
    return [*weights, *(("activation", bits) for bits in params.activations)]


@dataclass(frozen=True)
class Layers:
    """What layers are measured with. Sims are kept: another part of the layers may be asked for at the same bits."""

    model: nn.Module
    sample: tuple[Tensor, ...]
    split: Samples
    config: str
    batch_size: int
    metric: Metric
    reference: Reference
    sims: dict[tuple[What, int], Sim] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        sample: tuple[Tensor, ...],
        split: Samples,
        config: str,
        batch_size: int,
        metric: Metric,
        folder: Path,
    ) -> "Layers":
        """Read the samples, and keep FP32's outputs in a folder."""
        split = held(split)
        reference = reference_of(model, split, batch_size, folder)
        return cls(model, sample, split, config, batch_size, metric, reference)

    def measure_all(self, params: SensitivityParams) -> list[Sensitivity]:
        """Measure every layer's weights and activations at every bit-width that `params` asks for."""
        return [row for what, bits in asked(params) for row in self.measure(what, bits)]

    def measure(self, what: What, bits: int, part: slice = slice(None), quiet: bool = False) -> list[Sensitivity]:
        """Measure ALL layers and each on its own; of these only a part."""
        sim = self._sim(what, bits)
        kinds = sim.layers(what)
        groups = list({ALL: list(kinds), **{name: [name] for name in kinds}}.items())[part]
        rows: list[Sensitivity] = []
        for name, group in tqdm(groups, desc=f"{what}s at {bits} bits", unit="layer", disable=quiet):
            with sim.isolated(group, what):
                scored = score(sim.model, self.split, self.metric, self.batch_size, name, self.reference)
            found = scored.comparison
            assert found.sqnr_db is not None
            rows.append(Sensitivity(name, kinds.get(name, ""), what, bits, found.value, found.drop, found.sqnr_db))
        return rows

    def _sim(self, what: What, bits: int) -> Sim:
        if (what, bits) not in self.sims:
            precision = Precision(bits, 8) if what == "weight" else Precision(8, bits)
            self.sims[what, bits] = build_sim(self.model, self.sample, precision, self.config)
            self.sims[what, bits].calibrate(self.split, self.batch_size)
        return self.sims[what, bits]


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

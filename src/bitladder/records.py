"""The metrics files as types: what each of them holds, with one reader and one writer. Starts without torch.

A file that an older bitladder wrote is translated as it is read; one that cannot be is refused in a line. CSV files and
what lies in build/ are not here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitladder.errors import UserError
from bitladder.running.files import write_json

__all__ = [
    "Decision",
    "Device",
    "Emulated",
    "Evaluation",
    "Exact",
    "ExportCheck",
    "Figures",
    "FloatShare",
    "FloatTensor",
    "Gate",
    "GoalState",
    "GoalVerdict",
    "Goals",
    "HeldOut",
    "Kind",
    "LatencySource",
    "Measurement",
    "Memory",
    "Record",
    "Repair",
    "RungDecision",
    "RungSummary",
    "SensitivitySummary",
    "Side",
    "SideBySide",
    "SocFigures",
    "Sources",
    "TargetRecord",
    "Try",
    "parse_record",
    "read_record",
    "write_record",
]

FIRST = 1
"""The version of a file that names none: what 0.1.0 wrote."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

LatencySource = Literal["measured", "estimated", "none"]

NAMED_IN_A_LINE = 6
"""Layers that a line names one by one; of more it has their number."""

_LEFT_OUT: Any = Field(default=None, exclude_if=lambda value: value is None)
"""Of a key that a file has only where there is something to say."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Record(_Block):
    """A metrics file, in JSON. Its first key, `schema`, is the version of its kind; 0.1.0 wrote none, which is 1."""

    version: ClassVar[int] = 2
    renamed: ClassVar[Mapping[str, str]] = {}  # keys of version 1 that have another name now, on whatever level

    def content(self) -> dict[str, Any]:
        """Give what its file holds."""
        return {"schema": self.version, **self.model_dump(mode="json")}


class Try(_Block):
    """One PTQ technique, tried on top of those that were kept before it.

    Figures are on calibration samples that no technique is fitted to; null where there are none left, or the technique
    is not applicable.
    """

    technique: str
    """Its name, as in `ptq.techniques`."""
    value: Finite | None = None
    """The task's metric, in its own unit."""
    drop: Finite | None = None
    """How much worse the metric is than FP32's, in the metric's own unit; negative: better."""
    sqnr_db: Finite | None = None
    """SQNR of the outputs against FP32, in dB."""
    kept: bool
    """Whether the rung has it."""
    not_applicable: str | None = None
    """Why the technique can do nothing here; null where it was tried."""


class HeldOut(_Block):
    """A rung after PTQ on calibration samples: they, not the evaluation split, decide whether it is trained."""

    samples: Count
    """How many samples were run."""
    fitted: bool
    """Whether techniques were fitted to these samples, as there were no others."""
    value: Finite
    """The task's metric, in its own unit."""
    drop: Finite
    """How much worse the metric is than FP32's, in the metric's own unit; negative: better."""


class Repair(_Block):
    """A node of an exported graph that was put right for the NPU; see the guide "When the NPU disagrees"."""

    rule: str
    """The rule's name, as in `export.repairs`."""
    node: str
    """The node's name."""
    op: str
    """What it was."""


class Evaluation(Record):
    """`metrics/eval/NAME.json`, `metrics/ptq/RUNG.json`: the metric on the evaluation split, off target.

    NAME is fp32, fp16, w16a16 (the check) or a rung as exported; `metrics/ptq/RUNG.json` is a rung after PTQ.
    """

    version = 3
    renamed = {"idle": "not_applicable"}

    metric: str
    """Name of the task's metric."""
    higher_is_better: bool
    """Whether more of the metric is better."""
    value: Finite | None = None
    """The metric, in its own unit; null where the rung was skipped or refused."""
    drop: Finite | None = None
    """How much worse the metric is than FP32's, in the metric's own unit (of accuracy, 0.01 is a point); negative:
    better."""
    sqnr_db: Finite | None = None
    """SQNR of the outputs against FP32, in dB; the least where there are several outputs. 200: they are equal."""
    agreement: Finite | None = None
    """Share of samples with FP32's top-1, 0 to 1; null where the targets are not indices of classes."""
    device: Literal["cpu", "cuda"] | None = _LEFT_OUT
    """Kind of device that ran the network; others give other bits."""
    samples: Count
    """How many samples were run; 0 where the rung was skipped or refused."""
    technique: str | None
    """What made it: `fp16`, `ptq:` and the techniques that were kept, `qat`; null of a rung left out."""
    weights_bits: Count
    """Bits of the weights; of a mixed rung, those of the layers that were not raised."""
    activations_bits: Count
    """Bits of the activations, likewise."""
    skipped: str | None = _LEFT_OUT
    """Why nothing was measured; only of a skipped rung."""
    refused: str | None = _LEFT_OUT
    """Why nothing could be measured; only of a rung that the network does not allow."""
    tries: tuple[Try, ...] | None = _LEFT_OUT
    """The PTQ techniques that were tried, in order; only of a rung that PTQ made."""
    held_out: HeldOut | None = _LEFT_OUT
    """The rung on calibration samples; only of a rung that PTQ made."""
    qat: str | None = _LEFT_OUT
    """Whether QAT ran, and why; only of a rung as exported."""
    repairs: tuple[Repair, ...] | None = _LEFT_OUT
    """What was put right in the graph for the NPU; only of FP16, where there was anything."""


class Memory(_Block):
    """What a context binary says of the memory that it takes, in bytes; null where the target gives none that tells."""

    spill_fill_bytes: Count | None = None
    """Buffer in DDR for what does not fit the NPU's own memory."""
    vtcm_bytes: Count | None = None
    """That memory (VTCM), as the graph was compiled for."""
    ddr_tensor_bytes: Count | None = None
    """Tensors that live in DDR."""
    constants_bytes: Count | None = None
    """Weights."""
    op_data_bytes: Count | None = None
    """The ops' own data."""
    io_bytes: Count | None = None
    """Inputs and outputs."""
    source: str
    """`context binary`, or `none` and why."""


class Emulated(_Block):
    """What the target itself ran, where figures of more samples stand in its place."""

    samples: Count
    """How many samples it ran."""
    value: Finite
    """The metric on them, in its own unit."""
    drop: Finite
    """How much worse it is than FP32's on them."""
    gap: Finite
    """Distance to the simulation's metric on them."""


class Exact(_Block):
    """The NPU's integers computed by a model of its arithmetic, held against what the emulator gives."""

    samples: Count
    """How many samples both ran; 0 where there is no model."""
    equal_integers: Finite | None = None
    """Share of the outputs' integers that are equal, 0 to 1."""
    within_one_step: Finite | None = None
    """Share of them that are equal or one step apart."""
    equal_classes: Finite | None = None
    """Share of samples with the same top-1; null where the targets are not indices of classes."""
    float_ops: tuple[str, ...] = ()
    """Ops that have no model, each with its node: they were run in float, as the graph says."""
    first_difference: str | None = None
    """The first op whose integers differ, on the first sample whose outputs do; null where none does."""
    used: bool
    """Whether metric, drop and gap are of all samples of the evaluation split, by this model."""
    reason: str
    """Why, or why not."""
    emulated: Emulated | None = None
    """The emulator's own figures, where others stand in their place."""


class Device(_Block):
    """The device that a rung was measured on, and its state. Null: it could not be told, and `untold` says why."""

    name: str | None = None
    """What the device calls itself, or its chip."""
    runtime: str
    """What ran the model there, with its version."""
    qairt: str | None = None
    """Version of the QAIRT whose libraries ran it."""
    performance_mode: str | None = None
    """What was asked of the NPU's clocks, such as `burst`."""
    governor: str | None = None
    """What sets the clock of the CPU, by Linux's name."""
    celsius_before: Finite | None = None
    """The hottest sensor before the timed inferences, in degrees Celsius."""
    celsius_after: Finite | None = None
    """The hottest sensor after them."""
    throttling: str | None = None
    """What the device did about its heat after them; `none`: nothing."""
    warmup: Count | None = None
    """How many inferences ran before the timed ones."""
    runs: Count | None = None
    """How many inferences were timed."""
    untold: str | None = None
    """Why what is null could not be told."""


class Side(_Block):
    """One of three that ran the same samples; agreement and SQNR are against the simulation."""

    value: Finite
    """The metric, in its own unit."""
    agreement: Finite | None
    """Share of samples with the simulation's top-1, 0 to 1; null where the targets are not indices of classes."""
    sqnr_db: Finite | None
    """SQNR of the outputs against the simulation's, in dB; 200: they are equal."""


class SideBySide(_Block):
    """Device, emulator and simulation on the same samples, the first ones (`target.emulated`)."""

    samples: Count
    """How many samples."""
    device: Side
    """The device."""
    emulator: Side
    """The emulator, which ran the same context binary."""
    simulation: Finite
    """The simulation's metric."""
    agreement: Finite | None
    """Share of samples on which device and emulator have the same top-1."""
    sqnr_db: Finite | None
    """SQNR of the device's outputs against the emulator's, in dB; 200: they are equal."""


class Measurement(_Block):
    """A rung, or FP16, on one SoC. Figures are null where it was not measured, and `reason` says why."""

    backend: str
    """What ran it: `target.backend`."""
    soc: str
    """The SoC, by its own name."""
    samples: Count
    """How many samples of the evaluation split `value`, `drop` and `gap` are of, from its start; 0 where it was not
    measured."""
    value: Finite | None = None
    """The metric on target, in its own unit."""
    drop: Finite | None = None
    """How much worse the metric is than FP32's on the same samples, in the metric's own unit; negative: better."""
    reference_value: Finite | None = None
    """The simulation's metric on the same samples."""
    gap: Finite | None = None
    """Distance between the metric on target and the simulation's, in the metric's own unit."""
    agreement: Finite | None = None
    """Share of samples with the simulation's top-1, 0 to 1."""
    sqnr_db: Finite | None = None
    """SQNR of the outputs against the simulation's, in dB; 200: they are equal."""
    memory_bytes: Count | None = None
    """Size of the compiled model (the context binary), in bytes."""
    weights_bytes: Count | None = None
    """Size of the weights in the graph that was compiled, in bytes."""
    memory: Memory
    """What the context binary says of the memory that it takes."""
    ops_npu: Count | None = None
    """How many ops run on the NPU."""
    ops_cpu: Count | None = None
    """How many ops are left to the CPU."""
    latency_ms: Finite | None = None
    """Latency of an inference, in ms: a median where it is measured."""
    latency_low_ms: Finite | None = None
    """Lower end of an estimate's 80 % interval, in ms."""
    latency_high_ms: Finite | None = None
    """Upper end of it, in ms."""
    latency_p90_ms: Finite | None = None
    """90th percentile of a measured latency, in ms."""
    latency_source: LatencySource
    """Where the latency comes from."""
    reason: str
    """How the latency was found, or why there is none; where nothing was measured, why: `skipped: ...`, `refused: ...`
    or that the SoC does not take the precision."""
    exact: Exact | None = _LEFT_OUT
    """What a model of the NPU's arithmetic gives; only of a quantized rung on the emulator (`target.exact`)."""
    device: Device | None = _LEFT_OUT
    """The device and its state; only where one measured it."""
    side_by_side: SideBySide | None = _LEFT_OUT
    """Device, emulator and simulation; only where a device ran what was compiled here (ssh, adb)."""

    @property
    def ran_by(self) -> str:
        """What the figures of the metric come from."""
        if self.exact is None or not self.exact.used:
            return f"{self.backend} ({self.device.name})" if self.device and self.device.name else self.backend
        return f"hexagon-exact (proved on {self.exact.samples} emulated samples)"

    @property
    def refused(self) -> str | None:
        """Why the rung was refused here; None where it was not."""
        kind, _, why = self.reason.partition(": ")
        return why if kind == "refused" else None


class TargetRecord(Measurement, Record):
    """`metrics/target/RUNG.json`: a rung, or FP16, on `target.soc` and on the further SoCs of `target.socs`."""

    socs: dict[str, Measurement] = {}
    """The same of each further SoC, by its name."""


class FloatTensor(_Block):
    """A tensor of an exported graph that a quantizer could hold and none does."""

    name: str
    """Its name in the graph."""
    op: str
    """Type of the op that computes with it, in float."""
    layer: str
    """The layer that this op is of."""
    elements: Count
    """How many values it has, for a batch of one."""
    kind: Literal["weight", "activation"]
    """Whether it is constant."""


class FloatShare(_Block):
    """How much of an exported graph computes in float."""

    ops: Count
    """How many ops."""
    weights: Finite
    """Part of the weights' values that is held in float, 0 to 1."""

    def __str__(self) -> str:
        """Say it in a few words; nothing where all is integer."""
        if not self.ops:
            return "nothing"
        return f"{self.ops} op{'s' * (self.ops > 1)}, {self.weights:.0%} of weights"


class BlockWeights(_Block):
    """Which layers of a rung have a scale for each block of input channels, by `ladder.R.weights_block`."""

    size: Count
    """Input channels that share a scale."""
    layers: tuple[str, ...]
    """The layers that have it so."""
    per_channel: tuple[str, ...]
    """Those with one scale for each output channel: other kernels, and input channels that are no multiple of it."""

    @property
    def names_layers(self) -> bool:
        """Whether the line below names them, rather than count them."""
        return len(self.layers) + len(self.per_channel) <= NAMED_IN_A_LINE

    def __str__(self) -> str:
        """Say it in a line, which names the layers where they are few."""
        scales = f"a scale for each {self.size} input channels in"
        if not self.names_layers:
            return f"{scales} {len(self.layers)} of {len(self.layers) + len(self.per_channel)} layers"
        left = f"; per channel: {', '.join(self.per_channel)}" if self.per_channel else ""
        return f"{scales} {', '.join(self.layers)}{left}"


class ExportCheck(Record):
    """`metrics/export/RUNG.json`: the exported graph against the simulation, on ONNX Runtime's CPU provider."""

    samples: Count
    """How many samples were compared; 0 where the rung was skipped or refused."""
    sqnr_db: Finite | None
    """SQNR of the graph's outputs against the simulation's, in dB; 200: they are equal."""
    agreement: Finite | None
    """Share of samples with the simulation's top-1, 0 to 1."""
    repairs: tuple[Repair, ...] | None = _LEFT_OUT
    """What was put right in the graph for the NPU; only where there was anything."""
    block_weights: BlockWeights | None = _LEFT_OUT
    """Which layers' weights have blocks; only where any have."""
    float_share: FloatShare | None = None
    """How much of the graph computes in float; null where it was not counted."""
    float_tensors: tuple[FloatTensor, ...] = ()
    """The tensors that are held in float, and a quantizer could hold."""
    skipped: str | None = _LEFT_OUT
    """Why nothing was exported; only of a skipped rung."""
    refused: str | None = _LEFT_OUT
    """Why nothing could be exported, or the graph is not what was simulated; only of a refused rung."""


class SensitivitySummary(Record):
    """`metrics/sensitivity.json`: whether weights or activations cost more; `metrics/sensitivity.csv` has the layers.

    Compared are the fewest bits of each that `sensitivity` in params.yaml asks for.
    """

    sensitive_to: Literal["weight", "activation"] | None
    """What costs more SQNR when it alone is quantized; null where layers could not be isolated."""
    summary: str
    """The same in a sentence, with the figures."""
    worst: tuple[str, ...]
    """The layers that cost the most, the worst first."""


class Gate(Record):
    """`gates/RUNG.json`: whether the rungs below are tried. No more, so that no other figure reruns them."""

    descend: bool
    """Whether to descend."""


GoalState = Literal["holds", "fails", "undecided"]


class _Metric(_Block):
    """A metric, compared with FP32's on the same samples."""

    value: Finite | None
    """The metric, in its own unit."""
    drop: Finite | None
    """How much worse it is than FP32's on the same samples, in the metric's own unit; negative: better."""
    drop_low: Finite | None = None
    """Lower end of the drop's interval, at `goals.confidence`."""
    drop_high: Finite | None = None
    """Upper end of it."""
    lost: Count | None = None
    """How many samples do worse than with FP32; null where the metric has no value for a sample."""
    won: Count | None = None
    """How many samples do better than with FP32."""
    disagree: Finite | None = None
    """Share of samples that do not do equally well, 0 to 1: both of them."""
    verdict: GoalState | None = None
    """Whether the accuracy goals hold here, fail, or cannot be told from these samples; null where none was asked."""
    samples: Count | None = None
    """How many samples were compared."""
    samples_to_settle: Count | None = None
    """How many samples would tell, were drop and disagreement as measured; null where settled, or none would."""
    method: str | None = None
    """What the interval was found by; why, where there is none."""


class _TargetMetric(_Block):
    """The metric on `target.soc`, compared with FP32's on the same samples."""

    target_value: Finite | None
    """The metric on `target.soc`, in its own unit."""
    target_drop: Finite | None
    """How much worse it is there than FP32's on the same samples, in the metric's own unit."""
    target_drop_low: Finite | None = None
    """Lower end of that drop's interval, at `goals.confidence`."""
    target_drop_high: Finite | None = None
    """Upper end of it."""
    target_lost: Count | None = None
    """How many samples do worse there than with FP32."""
    target_won: Count | None = None
    """How many samples do better there than with FP32."""
    target_disagree: Finite | None = None
    """Share of samples that do not do equally well, 0 to 1."""
    target_verdict: GoalState | None = None
    """Whether the accuracy goals hold there, fail, or cannot be told from these samples."""
    target_samples: Count | None = None
    """How many samples were compared."""
    target_samples_to_settle: Count | None = None
    """How many samples would tell; null where settled, or none would."""
    target_method: str | None = None
    """What the interval was found by; why, where there is none."""


class _Gap(_Block):
    """The distance to the simulation's metric, on the same samples."""

    gap_low: Finite | None = None
    """Lower end of the gap's interval, at `goals.confidence`."""
    gap_high: Finite | None = None
    """Upper end of it."""
    gap_lost: Count | None = None
    """How many samples do worse on target than in the simulation."""
    gap_won: Count | None = None
    """How many samples do better on target than in the simulation."""
    gap_disagree: Finite | None = None
    """Share of samples that do not do equally well, 0 to 1."""
    gap_verdict: GoalState | None = None
    """Whether the goals of the gap hold, fail, or cannot be told from these samples; null where none was asked."""
    gap_samples: Count | None = None
    """How many samples were compared."""
    gap_samples_to_settle: Count | None = None
    """How many samples would tell; null where settled, or none would."""
    gap_method: str | None = None
    """What the interval was found by; why, where there is none."""


class SocFigures(_Gap, _Metric):
    """What was measured of a rung on a further SoC; `drop` and what belongs to it are there, on target."""

    gap: Finite | None
    """Distance to the simulation's metric, in the metric's own unit."""
    memory_bytes: Count | None
    """Size of the context binary, in bytes."""
    latency_ms: Finite | None
    """Latency of an inference, in ms."""
    latency_source: LatencySource
    """Where the latency comes from."""


class RungSummary(Record):
    """`metrics/rungs/RUNG.json`: the figures of a rung in one row, as `dvc metrics show` and `diff` print them."""

    version = 3

    precision: str
    """Such as W4A8, or `W4A8 mixed` where some layers have other bits."""
    technique: str | None
    """What made it; null where the rung was skipped, or refused before it was made."""
    value: Finite | None
    """The metric off target, in its own unit."""
    drop: Finite | None
    """How much worse it is than FP32's, in the metric's own unit."""
    drop_low: Finite | None = None
    """Lower end of the drop's interval, at `goals.confidence`."""
    drop_high: Finite | None = None
    """Upper end of it."""
    target_value: Finite | None
    """The metric on `target.soc`, in its own unit."""
    target_drop: Finite | None
    """How much worse it is there than FP32's on the same samples, in the metric's own unit."""
    target_drop_low: Finite | None = None
    """Lower end of that drop's interval."""
    target_drop_high: Finite | None = None
    """Upper end of it."""
    target_gap: Finite | None
    """Distance between the metric there and the simulation's, in the metric's own unit."""
    memory_bytes: Count | None
    """Size of the context binary, in bytes."""
    latency_ms: Finite | None
    """Latency of an inference, in ms."""
    socs: dict[str, SocFigures] | None = _LEFT_OUT
    """The figures on further SoCs, by name; only where there are any."""
    verdict: str
    """`meets every goal` (and how many of them are undecided), how many goals it misses, `skipped` or `refused`."""


class Goals(_Block):
    """What was asked of a rung: the goals of params.yaml that are set, and those of `target`."""

    max_drop: Finite | None = _LEFT_OUT
    """Most that the metric may drop, in its own unit."""
    max_relative_drop: Finite | None = _LEFT_OUT
    """The same as a share of FP32's value."""
    min_value: Finite | None = _LEFT_OUT
    """Least value of the metric."""
    confidence: Finite | None = _LEFT_OUT
    """How often an interval, such as that of a drop, holds the truth."""
    undecided: Literal["accept", "refuse"] | None = _LEFT_OUT
    """Whether a goal that the samples do not decide is judged by what was measured, or refused."""
    max_memory_bytes: Count | None = _LEFT_OUT
    """Largest context binary, in bytes."""
    max_latency_ms: Finite | None = _LEFT_OUT
    """Longest latency of an inference, in ms."""
    accept_latency_estimates: bool | None = _LEFT_OUT
    """Whether an estimated latency counts as a measured one; only where a latency is asked for."""
    per_soc: dict[str, dict[str, Finite | int | None]] | None = _LEFT_OUT
    """What is asked otherwise on a SoC, by the names of this table; null: no such goal there."""
    max_gap: Finite | None = _LEFT_OUT
    """Largest distance between the metric on target and the simulation's, in the metric's own unit."""
    max_relative_gap: Finite | None = _LEFT_OUT
    """The same as a share of the simulation's value."""


class Figures(_Gap, _TargetMetric, _Metric):
    """What was measured of a rung, off target (`drop` and what belongs to it) and on it; null where it was not.

    Each interval is of one comparison of one rung. Of many at 0.95, one in twenty does not hold the truth.
    """

    target_gap: Finite | None
    """Distance between the metric there and the simulation's, in the metric's own unit."""
    memory_bytes: Count | None
    """Size of the context binary, in bytes."""
    latency_ms: Finite | None
    """Latency of an inference, in ms."""
    latency_source: LatencySource
    """Where the latency comes from."""
    socs: dict[str, SocFigures]
    """The figures on the further SoCs, by name."""


class GoalVerdict(_Block):
    """One goal of a rung, held against what was measured."""

    goal: str
    """Its key in params.yaml."""
    what: str
    """The figure that it is of, in words."""
    soc: str | None
    """The SoC that it is judged on; null: off target."""
    limit: Finite | None
    """The goal; null where only a figure was asked for."""
    value: Finite | None
    """What was measured; null where nothing was."""
    low: Finite | None
    """Lower end of its interval; null where it has none."""
    high: Finite | None
    """Upper end of it."""
    verdict: GoalState
    """Whether the goal holds, fails, or cannot be told from these samples."""
    samples_to_settle: Count | None
    """How many samples would tell; null where settled, or none would."""


class Sources(_Block):
    """What the figures of a rung come from, in words; `none` and why where there are none."""

    off_target: str
    """What simulated it, on how many samples."""
    on_target: str
    """What ran it, on which SoC and how many samples."""
    memory: str
    """Which file's size it is."""
    latency: str
    """`measured`, `estimated`, or `none` and why."""


class RungDecision(_Block):
    """One rung in the decision: what was asked, what was measured, and what came of it."""

    rung: str
    """Its name; `fp16` is one."""
    precision: str
    """Such as W4A8, or `W4A8 mixed` where some layers have other bits."""
    technique: str | None
    """What made it; null where the rung was skipped, or refused before it was made."""
    goals: Goals
    """What was asked of it."""
    measured: Figures
    """What was measured."""
    sources: Sources
    """What the figures come from."""
    verdicts: tuple[GoalVerdict, ...] = ()
    """Each goal, and whether it holds."""
    misses: tuple[str, ...]
    """The goals that it misses, each in words."""
    undecided: tuple[str, ...] = ()
    """The goals that the samples do not decide, each in a sentence, with how many samples would."""
    qat: str | None
    """Whether QAT ran, and why; null of FP16."""
    pareto: bool
    """Whether no other rung beats it in size and accuracy on target."""
    outcome: str
    """`chosen`, `not chosen`, `skipped` or `refused`, and why."""


class Decision(Record):
    """`metrics/decision.json`: which rung to ship, and why not the others."""

    version = 3
    renamed = {"asked": "goals", "found": "measured", "then": "outcome"}

    chosen: str | None
    """The rung that ships; null where none meets the goals."""
    reason: str
    """Why, with the figures."""
    policy: Literal["sweep", "step-down"]
    """`goals.policy` of params.yaml."""
    objective: Literal["smallest", "fastest", "most-accurate"]
    """`goals.objective` of params.yaml."""
    nearest: str | None
    """Where none is chosen, the rung that came nearest."""
    next: tuple[str, ...]
    """Where none is chosen, what to try, each in words."""
    trail: tuple[RungDecision, ...]
    """The rungs, from the highest precision to the lowest."""

    def of(self, rung: str | None) -> RungDecision | None:
        """Find a rung; None where there is none of this name."""
        return next((entry for entry in self.trail if entry.rung == rung), None)


Kind = TypeVar("Kind", bound=Record)


def write_record(path: Path, record: Record) -> None:
    """Write a record as a diff wants it: a key a line, in the order of its type, floats to 6 decimals or digits."""
    write_json(path, record.content())


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Read a record. Raise UserError, in a line, where it is missing or does not fit its type."""
    try:
        return parse_record(kind, path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro`") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged ({error}); run `dvc repro`") from None
    except UserError as error:
        raise UserError(f"{error}; run `dvc repro`") from None


def parse_record(kind: type[Kind], text: str, where: str) -> Kind:
    """Read a record from its file's text, of whatever version; `where` names the file in messages.

    Raises UserError, in a line, where it does not fit its type, or is of a newer version.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: damaged ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: holds no keys")
    version = found.pop("schema", FIRST)
    if type(version) is not int or version < FIRST:
        raise UserError(f"{where}: schema: should be a whole number from {FIRST}, not {version!r}")
    if version > kind.version:
        raise UserError(f"{where}: has schema {version}, and this bitladder reads schemas up to {kind.version}")
    try:
        # As JSON again: there a list is a tuple, and nothing else is taken for what it is not
        return kind.model_validate_json(json.dumps(_renamed(found, kind.renamed) if version == FIRST else found))
    except ValidationError as error:
        problem = _first_line(error)
    if version < kind.version:
        raise UserError(f"{where}: has schema {version}, which does not translate to schema {kind.version} ({problem})")
    raise UserError(f"{where}: {problem}")


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key, text = ".".join(map(str, first["loc"])), first["msg"]
    if first["type"] == "extra_forbidden":
        text = "unknown key"
    elif first["type"] == "missing":
        text = "missing"
    elif isinstance(first["input"], str | int | float | None):
        text += f", not {first['input']!r}"
    return " ".join(f"{key}: {text[0].lower()}{text[1:]}".split())[:300]

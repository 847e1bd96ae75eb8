"""The schema of params.yaml: unknown keys and bad values are refused by name, before any work starts."""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bitladder.errors import UserError
from bitladder.precision import FLOAT, Precision
from bitladder.socs import Soc, find_soc
from bitladder.validation import one_line

__all__ = ["RULES", "TARGETS", "TECHNIQUES", "GoalsParams", "Params", "Rung", "TaskParams", "load_params", "names_file"]

PARAMS_FILE = Path("params.yaml")

TECHNIQUES = {
    "min-max": "bitladder.quantize.techniques.min_max:min_max",
    "sqnr": "bitladder.quantize.techniques.sqnr:sqnr",
    "bias-correction": "bitladder.quantize.techniques.bias_correction:bias_correction",
    "bn-reestimation": "bitladder.quantize.techniques.bn_reestimation:bn_reestimation",
    "cle": "bitladder.quantize.techniques.cle:cle",
    "gptq": "bitladder.quantize.techniques.gptq:gptq",
    "seq-mse": "bitladder.quantize.techniques.seq_mse:seq_mse",
    "adaround": "bitladder.quantize.techniques.adaround:adaround",
}
"""PTQ techniques by the names that `ptq.techniques` takes, in order of cost, and the function of each."""

TARGETS = {
    "hexagon-emulator": "bitladder.targets.hexagon:Hexagon",
    "snapdragon": "bitladder.targets.hexagon:Snapdragon",
    "ssh": "bitladder.targets.ssh:Ssh",
    "adb": "bitladder.targets.adb:Adb",
    "ai-hub": "bitladder.targets.aihub:AiHub",
}
"""Targets by the names that `target.backend` takes, and the class of each."""

RULES = {
    "channel-scale": "bitladder.htp.rules.channel_scale:RULE",
    "bias-scale": "bitladder.htp.rules.bias_scale:RULE",
    "block-bias": "bitladder.htp.rules.block_bias:RULE",
    "batch-norm": "bitladder.htp.rules.batch_norm:RULE",
    "norm-bias": "bitladder.htp.rules.norm_bias:RULE",
    "one-hot": "bitladder.htp.rules.one_hot:RULE",
    "clip": "bitladder.htp.rules.clip:RULE",
    "relu": "bitladder.htp.rules.relu:RULE",
    "leaky-relu": "bitladder.htp.rules.leaky_relu:RULE",
    "softmax": "bitladder.htp.rules.softmax:RULE",
    "softplus": "bitladder.htp.rules.softplus:RULE",
    "log": "bitladder.htp.rules.log:RULE",
    "hard-sigmoid": "bitladder.htp.rules.hard_sigmoid:RULE",
    "cumsum": "bitladder.htp.rules.cumsum:RULE",
    "average-pool": "bitladder.htp.rules.average_pool:RULE",
    "joined": "bitladder.htp.rules.joined:RULE",
    "end-pad": "bitladder.htp.rules.end_pad:RULE",
    "even-pool": "bitladder.htp.rules.even_pool:RULE",
    "resize": "bitladder.htp.rules.resize:RULE",
    "resize-range": "bitladder.htp.rules.resize_range:RULE",
    "reciprocal": "bitladder.htp.rules.reciprocal:RULE",
    "l2-norm": "bitladder.htp.rules.l2_norm:RULE",
    "attention": "bitladder.htp.rules.attention:RULE",
    "activation-bits": "bitladder.htp.rules.activation_bits:RULE",
    "narrow-linear": "bitladder.htp.rules.narrow_linear:RULE",
    "four-bits": "bitladder.htp.rules.four_bits:RULE",
    "float-constant": "bitladder.htp.rules.float_constant:RULE",
    "hard-swish": "bitladder.htp.rules.hard_swish:RULE",
    "half-tables": "bitladder.htp.rules.half_tables:RULE",
}
"""Rules of htp/ by the names that `export.repairs` takes, in the order in which they are applied: what one puts in, a
later one may concern. These tables are imported only where they are used."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""In a metric's own unit, which may be anything: a share, percent, perplexity."""
Count = Annotated[int, Field(ge=1)]


def _checked(check: Callable[[str], object]) -> AfterValidator:
    def validate(value: str) -> str:
        try:
            check(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validate)


def _matching(pattern: str, says: str) -> AfterValidator:
    """Refuse what a pattern does not match as a whole, in words: a regular expression is no message."""

    def check(value: str) -> None:
        if not re.fullmatch(pattern, value):
            raise UserError(says)

    return _checked(check)


def _one_of(names: Mapping[str, str]) -> AfterValidator:
    def check(value: str) -> None:
        if value not in names:
            raise UserError(f"use one of {', '.join(names)}")

    return _checked(check)


Name = Annotated[
    str,
    _matching(
        "[a-z][a-z0-9_-]*", "use small letters, digits, _ and -, and begin with a letter: files are named after it"
    ),
]

Factory = Annotated[
    str,
    _matching(
        r"([^:\n]+\.py|[^:\s.][^:\s]*):[A-Za-z_]\w*",
        "write package.module:name or path/to/file.py:name, where name is the function that returns the Task",
    ),
]

ModelName = Annotated[
    str,
    _matching(
        r"(?!\.$|\.\.)\s*[^/:\s][^/:]*",
        "give a name without / and :, neither blank nor . nor beginning with ..: MLflow takes no other",
    ),
]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def names_file(source: str) -> bool:
    """Whether what stands before the colon of a task's factory is a path, rather than a module's name."""
    return source.endswith(".py")


Cluster = Annotated[
    str,
    _matching(r"local|auto|ray://[^\s/:]+:\d{1,5}", "write null, local, auto or an address such as ray://HOST:10001"),
]


class ComputeParams(_Block):
    """What runs the networks. All but loader_workers and cluster changes bits without being part of the method."""

    threads: Count
    device: Literal["cpu", "cuda"] = "cpu"
    loader_workers: Annotated[int, Field(ge=0)] = 2
    cluster: Cluster | None = None

    @property
    def bits(self) -> tuple[int, str]:
        """What changes bits."""
        return self.threads, self.device


class TaskParams(_Block):
    """Which task the pipeline runs, what its factory is called with, and which files it is made of."""

    factory: Factory
    args: Annotated[dict[str, Any], Field(description="what the factory is called with, by name")] = {}
    files: Annotated[
        dict[Name, Annotated[str, Field(min_length=1)]],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _args_are_json(self) -> "TaskParams":
        try:
            json.dumps(self.args, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"args: {error}; give texts, numbers, true, false, null, lists and mappings of them, and dates in"
                " quotes"
            ) from None
        return self

    @model_validator(mode="after")
    def _code_is_hashed(self) -> "TaskParams":
        source = self.factory.rpartition(":")[0]
        if names_file(source) and not self.names(Path(source)):
            near = difflib.get_close_matches(source, self.files.values(), 1)
            raise ValueError(
                f"task.files: add `code: {source}`, which task.factory names, so that an edit of it is noticed"
                + (f"; or is task.factory to name {near[0]}?" if near else "")
            )
        return self

    def names(self, path: Path) -> bool:
        """Say whether a file, from the folder of params.yaml, is among `files` or in a folder that is."""
        listed = [Path(name) for name in self.files.values()]
        return any(path == one or one in path.parents for one in listed)


class PrepareParams(_Block):
    """How the model is made fit for AIMET."""

    exclude: list[Annotated[str, Field(min_length=1)]] = []


class TrainParams(_Block):
    """The FP32 training recipe."""

    epochs: Annotated[int, Field(ge=0)] = Field(description="0 keeps the weights that the network brings")
    batch_size: Count = Field(description="samples of a step")
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(description="AdamW's")


class EvaluateParams(_Block):
    """How the evaluation split is run through a model."""

    batch_size: Count


class SocGoals(_Block):
    """What a rung must hold on one SoC, where that is otherwise than on all: a key that is not set is as in `goals`."""

    max_drop: Limit | None = Field(default=None, description="as `goals.max_drop`, on this SoC")
    max_relative_drop: Limit | None = Field(default=None, description="as `goals.max_relative_drop`, on this SoC")
    min_value: Finite | None = Field(default=None, description="as `goals.min_value`, on this SoC")
    max_memory_bytes: Count | None = Field(default=None, description="as `goals.max_memory_bytes`, on this SoC")
    max_latency_ms: Positive | None = Field(default=None, description="as `goals.max_latency_ms`, on this SoC")


class GoalsParams(_Block):
    """What a rung must hold to be shipped, and how one is chosen of those that do."""

    # No defaults: DVC tracks these three by name, and refuses a file without them
    max_drop: Limit | None
    max_relative_drop: Limit | None
    min_value: Finite | None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    undecided: Literal["accept", "refuse"] = "accept"
    max_memory_bytes: Count | None = None
    max_latency_ms: Positive | None = None
    accept_latency_estimates: bool = False
    policy: Literal["sweep", "step-down"] = "sweep"
    objective: Literal["smallest", "fastest", "most-accurate"] = "smallest"
    per_soc: dict[Annotated[str, _checked(find_soc)], SocGoals] = {}

    def own(self, soc: str) -> SocGoals | None:
        """Give what `per_soc` says of a SoC, by its own name; None where it does not name it."""
        return next((goals for name, goals in self.per_soc.items() if find_soc(name).name == soc), None)

    @model_validator(mode="after")
    def _each_soc_is_named_once(self) -> "GoalsParams":
        names: dict[str, str] = {}
        for name in self.per_soc:
            other = names.setdefault(find_soc(name).name, name)
            if other != name:
                raise ValueError(f"per_soc: {other} and {name} are the same SoC; put what you ask under one name")
        return self

    @model_validator(mode="after")
    def _accuracy_has_a_goal(self) -> "GoalsParams":
        if self.max_drop is None and self.max_relative_drop is None and self.min_value is None:
            raise ValueError("one of max_drop, max_relative_drop and min_value must be set")
        return self


class VerifyParams(_Block):
    """Limits of the W16A16 check."""

    max_drop: Limit | None = Field(description="of the metric; null: no such limit")
    max_relative_drop: Limit | None = Field(default=None, description="the same as a share of FP32's value")
    min_sqnr_db: Finite


Technique = Annotated[str, _one_of(TECHNIQUES), WithJsonSchema({"enum": list(TECHNIQUES)})]

Techniques = Literal["auto"] | Annotated[list[Technique], Field(min_length=1)]


class GptqParams(_Block):
    """GPTQ: weights rounded one after the other."""

    samples: Count = Field(default=100, description="of the calibration split")


class SeqMseParams(_Block):
    """SeqMSE: weight ranges searched layer by layer."""

    candidates: Count = Field(default=20, description="ranges that are tried for each weight")
    samples: Count = Field(default=100, description="of the calibration split")


class AdaroundParams(_Block):
    """AdaRound: weights rounded as the layers' outputs ask."""

    iterations: Count = Field(default=300, description="steps for each layer")
    samples: Count = Field(default=100, description="of the calibration split")
    batch_size: Count = Field(default=16, description="samples of a step")
    learning_rate: Positive = Field(default=5e-3, description="of the weights' roundings")
    regularization: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.01, description="how much the loss pushes each weight to one side"
    )


class PtqParams(_Block):
    """Post-training quantization."""

    techniques: Techniques
    max_drop: Limit | None = 0.005
    max_relative_drop: Limit | None = None
    samples: Count
    batch_size: Count = Field(description="samples at a time")
    gptq: GptqParams = GptqParams()
    seq_mse: SeqMseParams = SeqMseParams()
    adaround: AdaroundParams = AdaroundParams()


class PtqOverrides(_Block):
    """What one rung sets otherwise than `ptq`."""

    techniques: Techniques | None = Field(default=None, description="as `ptq.techniques`, for this rung")
    max_drop: Limit | None = Field(default=None, description="as `ptq.max_drop`, for this rung")
    max_relative_drop: Limit | None = Field(default=None, description="as `ptq.max_relative_drop`, for this rung")
    samples: Count | None = Field(default=None, description="as `ptq.samples`, for this rung")
    batch_size: Count | None = Field(default=None, description="as `ptq.batch_size`, for this rung")


class Bits(_Block):
    """Bit-widths of one layer."""

    weights: int = Field(description="bits of the weights")
    activations: int = Field(description="bits of the activations")

    @property
    def precision(self) -> Precision:
        """The bit-widths as one value."""
        return Precision(self.weights, self.activations)


class MixedParams(_Block):
    """Mixed precision: the fewest layers raised to other bit-widths, until the drop is within max_drop."""

    raise_to: Bits = Field(description="the bit-widths that layers are raised to")
    max_drop: Limit | None = Field(
        default=None, description="of the metric against FP32, on calibration samples that no technique is fitted to"
    )
    max_relative_drop: Limit | None = Field(default=None, description="the same as a share of FP32's value")
    max_growth: Positive | None = Field(
        default=None, description="of the weights' bytes, as a share: no more layers are raised; null: any number"
    )
    cost: Literal["bytes", "macs"] = Field(default="bytes", description="what raising a layer costs")

    @model_validator(mode="after")
    def _ends_somewhere(self) -> "MixedParams":
        if self.max_drop is None and self.max_relative_drop is None:
            raise ValueError("one of max_drop and max_relative_drop must be set")
        return self


class Rung(Bits):
    """One rung of the ladder: its bit-widths, the rung above it, and the layers whose bits are not the rung's own.

    Which layers those are is searched for by `mixed`, or written by hand in `layers`; with both, `mixed` searches among
    the layers that `layers` does not name.
    """

    after: str = Field(description="the rung above it; `fp16` for the first")
    ptq: PtqOverrides = PtqOverrides()
    mixed: MixedParams | None = None
    layers: dict[str, Bits] = Field(default={}, description="bit-widths of layers, by hand")
    weights_block: Literal[16, 32, 64] | None = Field(
        default=None,
        description="input channels that share a scale, in Linear and 1 x 1 convolutions, at 16-bit activations; null:"
        " all of them do",
    )

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Its bits, and those that some of its layers have or may be raised to."""
        raised = [self.mixed.raise_to.precision] if self.mixed else []
        return (self.precision, *raised, *self.layer_precisions.values())

    def lacking(self, soc: Soc) -> str:
        """Name what of it, its layers' own bits apart, a SoC does not take; nothing where it takes all."""
        if str(self.precision) not in soc.takes:
            return str(self.precision)
        return "weights_block" if self.weights_block and not soc.takes_blocks else ""

    @property
    def layer_precisions(self) -> dict[str, Precision]:
        """The bits of the layers that were given some by hand."""
        return {name: bits.precision for name, bits in self.layers.items()}

    @property
    def label(self) -> str:
        """Such as W4A8, or `W4A8 mixed` where some layers have other bits; `W4A16 blocks of 32`."""
        blocks = f" blocks of {self.weights_block}" if self.weights_block else ""
        return f"{self.precision}{' mixed' if self.mixed or self.layers else ''}{blocks}"

    @model_validator(mode="after")
    def _raises_something(self) -> "Rung":
        raised = self.mixed.raise_to.precision if self.mixed else None
        if raised and raised.weights <= self.weights and raised.activations <= self.activations:
            raise ValueError(
                f"mixed.raise_to: {raised} is no more than the rung's own {self.precision}; give more bits to weights"
                " or activations, or leave mixed out"
            )
        return self

    @model_validator(mode="after")
    def _blocks_are_sound(self) -> "Rung":
        for precision in self.precisions if self.weights_block else ():
            if precision.weights not in (4, 8) or precision.activations != 16:
                raise ValueError(
                    f"weights_block: the NPU takes block weights at W4A16 and W8A16 only, not at {precision}; give 16"
                    " bits to all activations, or leave weights_block out"
                )
        return self


class SensitivityParams(_Block):
    """Which bit-widths each layer is tried at on its own."""

    weights: Annotated[list[Annotated[int, Field(ge=2, le=16)]], Field(min_length=1)] = Field(
        default=[4, 8], description="bit-widths of weights"
    )
    activations: Annotated[list[Annotated[int, Field(ge=4, le=16)]], Field(min_length=1)] = Field(
        default=[8], description="bit-widths of activations"
    )
    samples: Count = 100


class QatParams(_Block):
    """Quantization-aware training."""

    when: Literal["always", "needed", "never"]
    epochs: Count = Field(description="at most")
    batch_size: Count = Field(description="samples of a step")
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    range_learning_rate: Positive | None = None
    distill: Fraction = 0.0
    patience: Count | None = None
    checkpoint_steps: Count | None = None
    processes: Count = 1


RuleName = Annotated[str, _one_of(RULES), WithJsonSchema({"enum": list(RULES)})]


class ExportParams(_Block):
    """The repairs of the exported graph for the NPU, and its checks: outputs against the QuantSim's, what is float."""

    samples: Count = Field(description="of the evaluation split, from its start")
    min_sqnr_db: Finite
    repairs: Literal["auto", "off"] | list[RuleName] = "auto"
    allow_float: bool | list[Annotated[str, Field(min_length=1)]] = True

    @property
    def rules(self) -> tuple[str, ...]:
        """Name the rules by which graphs are repaired."""
        return {"auto": tuple(RULES), "off": ()}[self.repairs] if isinstance(self.repairs, str) else tuple(self.repairs)


HostName = Annotated[str, _matching(r"\w[\w.@:%-]*", "give a host as ssh takes it, such as user@board")]
HostPython = Annotated[str, _matching(r"~?[\w./+-]+", "give a command or a path, such as ~/venv/bin/python")]

Serial = Annotated[str, _matching(r"\w[\w.:-]*", "give what `adb devices` calls it, such as R3CT30ABCDE")]


class TargetParams(_Block):
    """Where a model is measured."""

    backend: Annotated[str, _one_of(TARGETS), WithJsonSchema({"enum": list(TARGETS)})]
    soc: Annotated[str, _checked(find_soc)]
    socs: list[Annotated[str, _checked(find_soc)]] = []
    samples: Count | None = None
    exact: Literal["auto", "off"] = "auto"
    # No defaults: DVC tracks these two by name
    max_gap: Limit | None
    max_relative_gap: Limit | None
    workers: Count
    compile_limit_s: Positive
    sample_limit_s: Positive
    warmup: Annotated[int, Field(ge=0)] = 10
    runs: Count = 100
    emulated: Annotated[int, Field(ge=0)] = 100
    host: HostName | None = None
    python: HostPython = "python3"
    serial: Serial | None = None
    qairt: Annotated[str, Field(min_length=1)] | None = None
    job_limit_s: Positive = 3600


class BundleParams(_Block):
    """What the bundle proves itself with."""

    samples: Count = 100


class TrackParams(_Block):
    """MLflow."""

    experiment: Annotated[str, Field(min_length=1)]
    register_as: ModelName | None = None


class Params(_Block):
    """All of params.yaml."""

    bitladder: str | None = Field(
        default=None, description="the version that wrote this folder; `bitladder init` and `bitladder upgrade` set it"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    compute: ComputeParams
    task: TaskParams
    train: TrainParams
    evaluate: EvaluateParams
    prepare: PrepareParams = PrepareParams()
    goals: GoalsParams
    verify: VerifyParams
    ladder: Annotated[dict[Name, Rung], Field(min_length=1)]
    sensitivity: SensitivityParams = SensitivityParams()
    ptq: PtqParams
    qat: QatParams
    export: ExportParams
    target: TargetParams
    bundle: BundleParams = BundleParams()
    track: TrackParams

    @property
    def soc(self) -> Soc:
        """The chip that the model is compiled for."""
        return find_soc(self.target.soc)

    @property
    def other_socs(self) -> tuple[Soc, ...]:
        """The chips besides it on which every rung is measured too."""
        named = {find_soc(name).name: find_soc(name) for name in self.target.socs}
        return tuple(soc for name, soc in named.items() if name != self.soc.name)

    def rungs(self) -> tuple[str, ...]:
        """Name the rungs from high to low, as their `after` keys order them; siblings by name."""
        below: dict[str, list[str]] = {}
        for name, rung in self.ladder.items():
            below.setdefault(rung.after, []).append(name)
        ordered: list[str] = []
        level = ["fp16"]
        while level:
            level = sorted(name for above in level for name in below.get(above, []))
            ordered += level
        return tuple(ordered)

    def ptq_of(self, rung: str) -> PtqParams:
        """Give the PTQ settings of a rung: the defaults with the rung's own put over them."""
        own = self.ladder[rung].ptq.model_dump(exclude_none=True)
        return self.ptq.model_copy(update=own)

    @model_validator(mode="after")
    def _socs_are_sound(self) -> "Params":
        if self.target.backend == "snapdragon" and self.other_socs:
            raise ValueError("target.socs: backend snapdragon is the one NPU of this machine; leave the list empty")
        if self.target.backend in ("ssh", "adb") and self.other_socs:
            one = "target.host" if self.target.backend == "ssh" else "a phone"
            raise ValueError(f"target.socs: backend {self.target.backend} is the one NPU of {one}; leave it empty")
        if self.target.backend == "ssh" and not self.target.host:
            raise ValueError("target.host: missing; name the device as ssh takes it, such as user@board")
        measured = {self.soc.name, *(soc.name for soc in self.other_socs)}
        for name in self.goals.per_soc:
            if find_soc(name).name not in measured:
                raise ValueError(f"goals.per_soc.{name}: nothing is measured on it; add it to target.socs")
        return self

    @model_validator(mode="after")
    def _ladder_is_sound(self) -> "Params":
        for name, rung in self.ladder.items():
            if name in {*FLOAT, "w16a16"}:
                raise ValueError(f"ladder.{name}: the name {name!r} is taken; choose another")
            if rung.after != "fp16" and rung.after not in self.ladder:
                known = ", ".join(["fp16", *self.ladder])
                raise ValueError(f"ladder.{name}.after: there is no rung {rung.after!r}; use one of {known}")
            for precision in rung.precisions:
                if str(precision) not in self.soc.takes:
                    takes = ", ".join(self.soc.takes)
                    raise ValueError(f"ladder.{name}: {self.target.soc} does not take {precision}; it takes {takes}")
            if rung.weights_block and not self.soc.takes_blocks:
                raise ValueError(
                    f"ladder.{name}.weights_block: {self.target.soc} does not take it; SoCs with FP16 from Hexagon v69"
                    " on do"
                )
        unreached = sorted(set(self.ladder) - set(self.rungs()))
        if unreached:
            raise ValueError(
                f"ladder.{unreached[0]}.after: the rungs {', '.join(unreached)} follow each other in a circle;"
                " one of them must come after fp16"
            )
        return self


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate params.yaml.

    Raises UserError with one line that names the key. The loader is YAML 1.2, as DVC's is, so that `1e-4` is a
    number to both, and it refuses a key written twice.
    """
    try:
        data = YAML(typ="safe").load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run this in the folder that holds {path.name}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as YAML: {problem}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected keys such as `task:` and `ladder:`, found {type(data).__name__}")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error, Params)}") from None

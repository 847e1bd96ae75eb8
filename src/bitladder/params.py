"""The schema of params.yaml: unknown keys and bad values are refused by name, before any work starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bitladder.errors import UserError
from bitladder.precision import FLOAT, Precision
from bitladder.socs import Soc, find_soc
from bitladder.tasks.source import is_file

__all__ = ["GoalsParams", "Params", "Rung", "TaskParams", "load_params"]

PARAMS_FILE = Path("params.yaml")

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _checked(check: Callable[[str], object]) -> AfterValidator:
    def validate(value: str) -> str:
        try:
            check(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validate)


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ComputeParams(_Block):
    """What changes bits without being part of the method."""

    threads: Count


class TaskParams(_Block):
    """Which task the pipeline runs, what its factory is called with, and which files it is made of."""

    factory: Annotated[str, Field(pattern=r"^[^:\s]+:[A-Za-z_]\w*$")]
    args: dict[str, Any] = {}
    files: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], Annotated[str, Field(min_length=1)]],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _code_is_hashed(self) -> "TaskParams":
        source = self.factory.rpartition(":")[0]
        if is_file(source) and not self.names(Path(source)):
            raise ValueError(
                f"task.files: add `code: {source}`, which task.factory names, so that an edit of it is noticed"
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

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EvaluateParams(_Block):
    """How the evaluation split is run through a model."""

    batch_size: Count


class GoalsParams(_Block):
    """What a rung must hold to be shipped, and how one is chosen of those that do."""

    # No defaults: DVC tracks these three by name, and refuses a file without them
    max_drop: Fraction | None
    max_relative_drop: Fraction | None
    min_value: Finite | None
    max_memory_bytes: Count | None = None
    max_latency_ms: Positive | None = None
    accept_latency_estimates: bool = False
    policy: Literal["sweep", "step-down"] = "sweep"
    objective: Literal["smallest", "fastest", "most-accurate"] = "smallest"

    @model_validator(mode="after")
    def _accuracy_has_a_goal(self) -> "GoalsParams":
        if self.max_drop is None and self.max_relative_drop is None and self.min_value is None:
            raise ValueError("one of max_drop, max_relative_drop and min_value must be set")
        return self


class VerifyParams(_Block):
    """Limits of the W16A16 check."""

    max_drop: Fraction
    min_sqnr_db: Finite


class PtqParams(_Block):
    """Post-training quantization."""

    range_setting: Literal["min-max", "sqnr"]
    samples: Count
    batch_size: Count


class PtqOverrides(_Block):
    """What one rung sets otherwise than `ptq`."""

    range_setting: Literal["min-max", "sqnr"] | None = None
    samples: Count | None = None
    batch_size: Count | None = None


class Rung(_Block):
    """One rung of the ladder: its bit-widths and the rung above it."""

    weights: int
    activations: int
    after: str
    ptq: PtqOverrides = PtqOverrides()

    @property
    def precision(self) -> Precision:
        """The bit-widths as one value."""
        return Precision(self.weights, self.activations)


class QatParams(_Block):
    """Quantization-aware training."""

    when: Literal["always", "needed", "never"]
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ExportParams(_Block):
    """The check that the exported graph answers as the QuantSim does."""

    samples: Count
    min_sqnr_db: Finite


class TargetParams(_Block):
    """Where a model is measured."""

    backend: Literal["hexagon-emulator", "snapdragon", "ai-hub"]
    soc: Annotated[str, _checked(find_soc)]
    samples: Count
    max_gap: Fraction
    workers: Count
    compile_limit_s: Positive
    sample_limit_s: Positive
    warmup: Annotated[int, Field(ge=0)] = 10
    runs: Count = 100
    job_limit_s: Positive = 3600


class TrackParams(_Block):
    """MLflow."""

    experiment: Annotated[str, Field(min_length=1)]
    register_as: Annotated[str, Field(min_length=1)] | None = None


class Params(_Block):
    """All of params.yaml."""

    bitladder: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    compute: ComputeParams
    task: TaskParams
    train: TrainParams
    evaluate: EvaluateParams
    prepare: PrepareParams = PrepareParams()
    goals: GoalsParams
    verify: VerifyParams
    ladder: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], Rung], Field(min_length=1)]
    ptq: PtqParams
    qat: QatParams
    export: ExportParams
    target: TargetParams
    track: TrackParams

    @property
    def soc(self) -> Soc:
        """The chip that the model is compiled for."""
        return find_soc(self.target.soc)

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
    def _ladder_is_sound(self) -> "Params":
        for name, rung in self.ladder.items():
            if name in {*FLOAT, "w16a16"}:
                raise ValueError(f"ladder.{name}: the name {name!r} is taken; choose another")
            if rung.after != "fp16" and rung.after not in self.ladder:
                known = ", ".join(["fp16", *self.ladder])
                raise ValueError(f"ladder.{name}.after: there is no rung {rung.after!r}; use one of {known}")
            if str(rung.precision) not in self.soc.takes:
                takes = ", ".join(self.soc.takes)
                raise ValueError(f"ladder.{name}: {self.target.soc} does not take {rung.precision}; it takes {takes}")
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
        raise UserError(f"{path}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    kind, text = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        text = "unknown key; see the comments in params.yaml for the keys there are"
    elif kind == "missing":
        text = "missing; it has no default"
    elif "input" in first and isinstance(first["input"], str | int | float | None):
        text = f"{text[0].lower()}{text[1:]}, not {first['input']!r}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{key}: {text}{more}" if key else f"{text}{more}"

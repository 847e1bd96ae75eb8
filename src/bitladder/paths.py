"""Where everything lies: the installed package, and each file and folder of a pipeline, from the pipeline's own folder.

Starts without torch. `build/` is DVC's, `metrics/` and `gates/` are in git, `deploy/` ships.
"""

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ARCH",
    "BUILD",
    "COMPARISON",
    "COMPARISON_SOCS",
    "DECISION",
    "DEPLOY",
    "EVIDENCE",
    "GATES",
    "INSTALLED",
    "JOBS",
    "KEPT_LOCK",
    "LOCK",
    "METRICS",
    "NOTES",
    "PACKAGE",
    "PAGE",
    "PARAMS",
    "PREPARED",
    "SENSITIVITY",
    "SENSITIVITY_ROWS",
    "SOCS",
    "SOURCES",
    "STAGES",
    "TASK",
    "TASK_FILES",
    "TIMINGS",
    "TRAINED",
    "TRAINING",
    "WORK",
    "RungFiles",
    "evaluated",
    "samples",
]

PACKAGE = Path(__file__).parent
"""This package's code and data, as it is installed."""

BUILD, METRICS, GATES, DEPLOY, STAGES = map(Path, ("build", "metrics", "gates", "deploy", "stages"))

PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")

# What the stage `sources` finds out of the installed package
SOURCES = BUILD / "sources"
"""A file a script of STAGES: what it comes to import, with hashes."""
INSTALLED = BUILD / "installed"
"""A link to PACKAGE. To DVC it is an output of the stage `sources`, which so runs again where the package changed."""
ARCH = BUILD / "soc/arch.json"
"""The Hexagon generation of target.soc."""
SOCS = BUILD / "soc/socs.json"
"""All that is known of target.soc and target.socs."""

TASK_FILES = BUILD / "task"
"""A file a key of params' task.files: its path and hash."""
TASK = BUILD / "task.json"
"""All of params' `task`, with these hashes."""

TRAINED = BUILD / "train/weights.safetensors"
PREPARED = BUILD / "baseline/model.safetensors"
"""The FP32 network as AIMET takes it."""
EVIDENCE = BUILD / "w16a16-evidence"

# No outputs: they differ from run to run
KEPT_LOCK = BUILD / "dvc.lock"
"""What LOCK was when the last stage began: DVC writes it in place, and may be killed as it does."""
TIMINGS = BUILD / "timings"
"""A file a stage, with the seconds that it took last."""
NOTES, WORK, JOBS = BUILD / "notes", BUILD / "work", BUILD / "ai-hub"

TRAINING = METRICS / "train.csv"
SENSITIVITY, SENSITIVITY_ROWS = METRICS / "sensitivity.json", METRICS / "sensitivity.csv"
COMPARISON, COMPARISON_SOCS = METRICS / "comparison.csv", METRICS / "comparison-socs.csv"
DECISION = METRICS / "decision.json"

PAGE = Path("reports/index.html")


def samples(split: str) -> Path:
    """Give the file of a split's samples."""
    return BUILD / f"data/{split}.safetensors"


def evaluated(name: str) -> Path:
    """Give the metrics of FP32, FP16, the W16A16 check or a rung on the evaluation split, off target."""
    return METRICS / f"eval/{name}.json"


@dataclass(frozen=True)
class RungFiles:
    """What a pipeline leaves of one rung. `fp16` is one, which has no PTQ, no QAT and no encodings."""

    rung: str

    @property
    def gate(self) -> Path:
        """Whether to descend below the rung."""
        return GATES / f"{self.rung}.json"

    @property
    def ptq_sim(self) -> Path:
        """Weights and quantizers after PTQ."""
        return BUILD / f"ptq/{self.rung}/sim.safetensors"

    @property
    def ptq_scores(self) -> Path:
        """The metric of each sample of the evaluation split after PTQ."""
        return BUILD / f"ptq/{self.rung}/scores.safetensors"

    @property
    def ptq_encodings(self) -> Path:
        """Scales and bits of every quantizer after PTQ."""
        return BUILD / f"ptq/{self.rung}/encodings.json"

    @property
    def sim(self) -> Path:
        """Weights and quantizers that are exported: after QAT where it ran, else those after PTQ."""
        return BUILD / f"qat/{self.rung}/sim.safetensors"

    @property
    def scores(self) -> Path:
        """The metric of each sample of the evaluation split: of `sim`, or of the network in FP16."""
        kind = "export" if self.rung == "fp16" else "qat"
        return BUILD / f"{kind}/{self.rung}/scores.safetensors"

    @property
    def outputs(self) -> Path:
        """Outputs of the simulation, or of the network in FP16, on the samples that the target runs: a folder."""
        return BUILD / f"export/{self.rung}/outputs"

    @property
    def reference(self) -> Path:
        """The metric of each of these samples: of the simulation, and of FP32."""
        return BUILD / f"export/{self.rung}/reference.safetensors"

    @property
    def model(self) -> Path:
        """The graph that is compiled: ONNX in QDQ form, or in FP16."""
        return BUILD / f"export/{self.rung}/model.onnx"

    @property
    def aimet(self) -> Path:
        """The float graph and AIMET's encodings beside it, a folder."""
        return BUILD / f"export/{self.rung}/aimet"

    @property
    def encodings(self) -> Path:
        """Scales and bits of every quantizer as exported."""
        return BUILD / f"export/{self.rung}/encodings.json"

    @property
    def compiled(self) -> Path:
        """What was compiled: a folder for each SoC."""
        return BUILD / f"target/{self.rung}"

    def target_scores(self, soc: str) -> Path:
        """Give the file of the metric of each of these samples on a SoC, and of the simulation."""
        return self.compiled / f"{soc}.safetensors"

    @property
    def notes(self) -> Path:
        """What differs from run to run (seconds, cycles): a folder."""
        return NOTES / self.rung

    @property
    def ptq_metrics(self) -> Path:
        """Metrics after PTQ, and the techniques that were tried."""
        return METRICS / f"ptq/{self.rung}.json"

    @property
    def raised(self) -> Path:
        """The layers of a mixed rung that were given more bits."""
        return METRICS / f"raised/{self.rung}.yaml"

    @property
    def ptq_layers(self) -> Path:
        """SQNR and ranges by layer after PTQ."""
        return METRICS / f"layers/{self.rung}.csv"

    @property
    def qat_history(self) -> Path:
        """QAT by epoch."""
        return METRICS / f"qat/{self.rung}.csv"

    @property
    def off_target(self) -> Path:
        """Metrics of what is exported, off target."""
        return evaluated(self.rung)

    @property
    def export_metrics(self) -> Path:
        """The exported graph against the simulation."""
        return METRICS / f"export/{self.rung}.json"

    @property
    def layers(self) -> Path:
        """SQNR and ranges by layer as exported."""
        return METRICS / f"export/{self.rung}.csv"

    @property
    def on_target(self) -> Path:
        """Metrics on target.soc, and on the further SoCs of target.socs."""
        return METRICS / f"target/{self.rung}.json"

    @property
    def summary(self) -> Path:
        """The figures of a rung in one row, with the verdict."""
        return METRICS / f"rungs/{self.rung}.json"

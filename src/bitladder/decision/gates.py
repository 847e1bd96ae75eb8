"""Gates between rungs, and what the stages of a skipped rung leave behind. Starts without torch.

A gate says only whether to descend below a rung. DVC hashes it, so an upstream edit that does not change the verdict
reruns nothing below. A skipped rung leaves empty files where tensors and graphs would be: the stages after it see by
them that there is nothing to do.
"""

from pathlib import Path
from typing import Any

from bitladder.params import Params
from bitladder.running.files import read_json, write_csv, write_json, write_text, write_yaml

__all__ = [
    "LAYER_COLUMNS",
    "QAT_COLUMNS",
    "SKIPPED",
    "descends",
    "is_skipped",
    "skip_export",
    "skip_ptq",
    "skip_qat",
    "write_gate",
]

SKIPPED = "goals.policy is step-down, and a rung above meets every goal"

LAYER_COLUMNS = (
    "layer", "kind", "sqnr_db", "weights_bits", "weight_min", "weight_max", "outputs_bits", "output_min", "output_max",
)  # fmt: skip
"""Columns of metrics/layers/*.csv, after PTQ, and of metrics/export/*.csv, of what ships."""

QAT_COLUMNS = ("epoch", "train_loss", "value", "loss", "range_drift_mean", "range_drift_max")
"""Columns of metrics/qat/*.csv: a row an epoch, the first PTQ's state."""


def write_gate(rung: str, descend: bool) -> None:
    """Write gates/<rung>.json."""
    write_json(_gate(rung), {"descend": descend})


def descends(rung: str) -> bool:
    """Whether the rungs after this one are to be tried."""
    return bool(read_json(_gate(rung))["descend"])


def is_skipped(path: Path) -> bool:
    """Whether an output stands for a skipped rung."""
    return path.is_file() and not path.stat().st_size


def skip_ptq(params: Params, rung: str) -> None:
    """Leave ptq@rung's outputs for a skipped rung."""
    _leave_empty(*(Path("build/ptq") / rung / f"{name}.safetensors" for name in ("sim", "outputs")))
    write_json(Path(f"build/ptq/{rung}/encodings.json"), {})
    write_csv(Path(f"metrics/layers/{rung}.csv"), LAYER_COLUMNS, ())
    write_yaml(Path(f"metrics/raised/{rung}.yaml"), {})
    write_json(Path(f"metrics/ptq/{rung}.json"), {**_record(params, rung), "tries": []})


def skip_qat(rung: str) -> None:
    """Leave qat@rung's outputs for a skipped rung."""
    _leave_empty(*(Path("build/qat") / rung / f"{name}.safetensors" for name in ("sim", "outputs")))
    write_csv(Path(f"metrics/qat/{rung}.csv"), QAT_COLUMNS, ())
    record = read_json(Path(f"metrics/ptq/{rung}.json"))
    write_json(Path(f"metrics/eval/{rung}.json"), {**record, "qat": "not run: the rung is skipped"})


def skip_export(rung: str) -> None:
    """Leave export@rung's outputs for a skipped rung."""
    folder = Path("build/export") / rung
    _leave_empty(folder / "model.onnx")
    (folder / "aimet").mkdir(parents=True, exist_ok=True)
    write_json(folder / "encodings.json", {})
    write_csv(Path(f"metrics/export/{rung}.csv"), LAYER_COLUMNS, ())
    nothing = {"samples": 0, "sqnr_db": None, "agreement": None}
    write_json(Path(f"metrics/export/{rung}.json"), {**nothing, "skipped": SKIPPED})


def _gate(rung: str) -> Path:
    return Path(f"gates/{rung}.json")


def _leave_empty(*paths: Path) -> None:
    for path in paths:
        write_text(path, "")


def _record(params: Params, rung: str) -> dict[str, Any]:
    """Give the metrics/eval record of a skipped rung: nothing measured, and why."""
    check, bits = read_json(Path("metrics/eval/w16a16.json")), params.ladder[rung].precision
    return {
        "metric": check["metric"],
        "higher_is_better": check["higher_is_better"],
        **dict.fromkeys(("value", "drop", "sqnr_db", "agreement")),
        "samples": 0,
        "technique": None,
        "weights_bits": bits.weights,
        "activations_bits": bits.activations,
        "skipped": SKIPPED,
    }

"""The metrics files of this commit's rungs, read: never a glob, since files of a removed rung stay."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitladder.files import read_json
from bitladder.params import Params

__all__ = ["METRICS", "Results", "read_results"]

METRICS = Path("metrics")


@dataclass(frozen=True)
class Results:
    """Records by rung, from high to low: `evals` has fp32, fp16 and the rungs; `targets` fp16 and the rungs."""

    evals: dict[str, dict[str, Any]]
    targets: dict[str, dict[str, Any]]


def read_results(params: Params) -> Results:
    """Read the metrics of FP32, FP16 and every rung in params.yaml. Raise UserError where one is missing."""
    rungs = ("fp16", *params.rungs())
    return Results(
        {name: read_json(METRICS / f"eval/{name}.json") for name in ("fp32", *rungs)},
        {name: read_json(METRICS / f"target/{name}.json") for name in rungs},
    )

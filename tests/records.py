"""Records as the stages write them, for tests that need figures but no run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitladder.decision.comparisons import OFF_TARGET
from bitladder.decision.decide import decide
from bitladder.decision.goals import RungScores
from bitladder.params import Params, load_params
from bitladder.records import (
    Evaluation,
    ExportCheck,
    FloatShare,
    Measurement,
    Memory,
    TargetRecord,
    read_record,
    write_record,
)
from bitladder.report.tables import COLUMNS, SOC_COLUMNS, comparison_rows
from bitladder.running.files import write_csv
from bitladder.socs import Soc
from bitladder.statistics.scores import FP32, NETWORK, SIMULATION, Scores
from support import conv_model

ROOT = Path(__file__).parents[1]
RUNGS = ("fp16", "balanced", "compact", "tiny")
SIZES = {"fp16": 4000, "balanced": 3000, "compact": 2000, "tiny": 1000}
SHARE = FloatShare(ops=3, weights=0.31)
BITS = {"fp16": (16, 16), "balanced": (8, 16), "compact": (8, 8), "tiny": (4, 8)}


def with_goals(soc: str = "SM8650", socs: Sequence[str] = (), **goals: Any) -> Params:
    data = load_params(ROOT / "params.yaml").model_dump()
    nothing = dict.fromkeys(("max_drop", "max_relative_drop", "min_value", "max_memory_bytes", "max_latency_ms"))
    data["goals"] = {**nothing, "max_drop": 0.01, **goals}
    data["target"] |= {"soc": soc, "socs": list(socs)}
    return Params.model_validate(data)


def off(rung: str, drop: float = 0.0, **more: Any) -> Evaluation:
    weights, activations = BITS[rung]
    values = {
        "metric": "accuracy",
        "higher_is_better": True,
        "value": 0.9 - drop,
        "drop": drop,
        "samples": 100,
        "technique": "fp16" if rung == "fp16" else "ptq:bn-fold+min-max",
        "weights_bits": weights,
        "activations_bits": activations,
        **more,
    }
    return Evaluation(**values)


def on(rung: str, drop: float = 0.0, **more: Any) -> Measurement:
    values = {
        "backend": "hexagon-emulator",
        "soc": "SM8650",
        "samples": 100,
        "value": 0.9 - drop,
        "drop": drop,
        "gap": 0.0,
        "memory_bytes": SIZES[rung],
        "memory": Memory(source="context binary"),
        "latency_ms": None,
        "latency_source": "none",
        "reason": "latency: the emulator's time is the host's",
        **more,
    }
    return Measurement(**values)


def scores(drop: float = 0.0, samples: int = 100_000) -> dict[str, Scores]:
    """Give the scores of FP32 at 0.9, of a network that loses `drop` of it, and of a simulation that does as well."""
    right = np.arange(samples) < round(0.9 * samples)
    kept = np.arange(samples) < round((0.9 - drop) * samples)
    found = [Scores(samples, float(one.mean()), one.astype(float)) for one in (right, kept)]
    return {FP32: found[0], SIMULATION: found[1], NETWORK: found[1]}


def rung_scores(drop: float = 0.0, samples: int = 100_000, socs: Sequence[str] = ("SM8650",)) -> RungScores:
    """Give a rung's scores in every place."""
    return {place: scores(drop, samples) for place in (OFF_TARGET, *socs)}


def skipped_off(rung: str) -> Evaluation:
    nothing = {"value": None, "drop": None, "technique": None}
    return off(rung, samples=0, skipped="stopped above").model_copy(update=nothing)


def refused(rung: str, reason: str, **more: Any) -> Measurement:
    nothing = dict.fromkeys(("value", "drop", "gap", "memory_bytes"))
    return on(rung, samples=0, reason=reason, **more).model_copy(update=nothing)


def on_another(rung: str, soc: Soc) -> Measurement:
    """Give a record of a further SoC, refused where it does not take the rung."""
    precision = "FP16" if rung == "fp16" else "W{}A{}".format(*BITS[rung])
    if precision in soc.takes:
        return on(rung, DROPS[rung] + 0.002, sqnr_db=38.0, agreement=0.98, ops_npu=35, ops_cpu=0, soc=soc.name)
    return refused(rung, f"{soc.name} does not take {precision}", soc=soc.name)


def write_on_target(folder: Path, rung: str, first: Measurement, others: dict[str, Measurement]) -> None:
    write_record(folder / f"metrics/target/{rung}.json", TargetRecord(**dict(first), socs=others))


def write_project(folder: Path, socs: Sequence[str] = ()) -> None:
    """Write params.yaml as it comes, and metrics/ as a sweep leaves it: every rung is good, so tiny is chosen."""
    text = (ROOT / "params.yaml").read_text("utf-8")
    (folder / "params.yaml").write_text(text.replace("  socs: []", f"  socs: [{', '.join(socs)}]"), "utf-8")
    params = load_params(folder / "params.yaml")
    assert params.rungs() == RUNGS[1:]
    evals = {"fp32": off("fp16", technique="as it came", weights_bits=32, activations_bits=32)}
    evals |= {rung: off(rung, drop, sqnr_db=30.0, agreement=0.99) for rung, drop in DROPS.items()}
    more = {"sqnr_db": 40.0, "agreement": 0.99, "ops_npu": 35, "ops_cpu": 0}
    targets = {rung: on(rung, drop, **more) for rung, drop in DROPS.items()}
    others = {rung: {soc.name: on_another(rung, soc) for soc in params.other_socs} for rung in targets}
    for name, record in evals.items():
        write_record(folder / f"metrics/eval/{name}.json", record)
    for name, first in targets.items():
        write_on_target(folder, name, first, others[name])
    found = {
        rung: rung_scores(
            drop, SAMPLES, [soc for soc, one in (("SM8650", targets[rung]), *others[rung].items()) if one.value]
        )
        for rung, drop in DROPS.items()
    }
    decision = decide(params, evals, targets, others, found)
    write_record(folder / "metrics/decision.json", decision)
    exports = {rung: ExportCheck(samples=20, sqnr_db=60.0, agreement=None, float_share=SHARE) for rung in RUNGS[1:]}
    for rung, record in exports.items():
        write_record(folder / f"metrics/export/{rung}.json", record)
    write_csv(folder / "metrics/comparison.csv", COLUMNS, comparison_rows(evals, targets, exports, decision))
    write_csv(folder / "metrics/comparison-socs.csv", SOC_COLUMNS, ())


def write_latencies(folder: Path, ms: Mapping[str, float]) -> None:
    """Give rungs in what write_project wrote an estimate, within a factor of 1.5, and FP16 a graph."""
    for rung, value in ms.items():
        path = folder / f"metrics/target/{rung}.json"
        ends = {"latency_low_ms": value / 1.5, "latency_high_ms": value * 1.5, "latency_source": "estimated"}
        write_record(path, read_record(TargetRecord, path).model_copy(update={"latency_ms": value, **ends}))
    graph = folder / "build/export/fp16/model.onnx"
    graph.parent.mkdir(parents=True)
    conv_model(graph)


SAMPLES = 1000

DROPS = {"fp16": 0.0, "balanced": 0.001, "compact": -0.001, "tiny": 0.004}

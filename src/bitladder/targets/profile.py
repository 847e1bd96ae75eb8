"""What a target says of a rung, in one form for every backend: the metrics/target/*.json files."""

from pathlib import Path
from typing import Any

from bitladder.evaluate import Outputs, agreement, sqnr_db
from bitladder.params import Params
from bitladder.targets.hexagon import compile_model, run
from bitladder.targets.record import header
from bitladder.tasks.task import Metric, Split

__all__ = ["profile"]


def profile(
    model: Path,
    folder: Path,
    metric: Metric,
    split: Split,
    references: tuple[Outputs, Outputs],
    params: Params,
    workspace: Path,
) -> dict[str, Any]:
    """Compile a model for the target, run samples on it, and compare its answers.

    Args:
        model: ONNX, float or QDQ.
        folder: takes the context binary and its wrapper ONNX.
        metric: the task's.
        split: the samples.
        references: what FP32 and what the simulation (QuantSim, or the FP16 module) answer; of the whole split or
            more: the first samples count.
        params: target and limits.
        workspace: where a killed run finds what it has done.

    Returns: a metrics/target record. `drop` is against FP32, `agreement`, `sqnr_db` and `gap` against the simulation,
    all on the same samples; `reference_value` is the simulation's metric on them.

    Raises UserError where the target refuses the model, fails, or takes too long.

    """
    soc, settings = params.soc, params.target
    fp16 = model.parent.name == "fp16"
    compiled = compile_model(model, folder, soc, fp16, settings.compile_limit_s, workspace)
    answers = run(compiled, soc, fp16, split, settings, workspace)
    fp32, simulated = ({name: values[: len(split)] for name, values in outputs.items()} for outputs in references)
    value, reference_value = metric(answers, split.targets), metric(simulated, split.targets)
    return {
        **header(settings),
        "samples": len(split),
        "value": value,
        "drop": metric.drop(metric(fp32, split.targets), value),
        "reference_value": reference_value,
        "gap": abs(reference_value - value),
        "agreement": agreement(simulated, answers),
        "sqnr_db": sqnr_db(simulated, answers),
        "memory_bytes": compiled.memory_bytes,
        "latency_ms": None,
        "latency_source": "none",
        "ops_npu": compiled.ops_npu,
        "ops_cpu": compiled.ops_cpu,
        "reason": "latency: the emulator's time is the host's, not the device's",
    }

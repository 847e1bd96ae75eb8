"""What a target says of a rung, in one form for every backend: the metrics/target/*.json files."""

from typing import Any

from bitladder.evaluate import Outputs, agreement, sqnr_db
from bitladder.params import Params
from bitladder.targets.record import header
from bitladder.targets.target import Job, Target
from bitladder.tasks.task import Metric

__all__ = ["find_target", "profile"]


def profile(job: Job, metric: Metric, references: tuple[Outputs, Outputs], params: Params) -> dict[str, Any]:
    """Measure a model on the target that `target.backend` names, and compare its answers.

    Args:
        job: the model, the samples, and where things go.
        metric: the task's.
        references: what FP32 and what the simulation (QuantSim, or the FP16 module) answer; of the whole split or
            more: the first samples count.
        params: target and limits.

    Returns: a metrics/target record. `drop` is against FP32, `agreement`, `sqnr_db` and `gap` against the simulation,
    all on the same samples; `reference_value` is the simulation's metric on them.

    Raises UserError where the target refuses the model, fails, or takes too long.

    """
    found, split = find_target(params).measure(job), job.split
    fp32, simulated = ({name: values[: len(split)] for name, values in outputs.items()} for outputs in references)
    value, reference_value = metric(found.answers, split.targets), metric(simulated, split.targets)
    return {
        **header(params.target),
        "samples": len(split),
        "value": value,
        "drop": metric.drop(metric(fp32, split.targets), value),
        "reference_value": reference_value,
        "gap": abs(reference_value - value),
        "agreement": agreement(simulated, found.answers),
        "sqnr_db": sqnr_db(simulated, found.answers),
        "memory_bytes": found.memory_bytes,
        "weights_bytes": found.weights_bytes,
        "ops_npu": found.ops_npu,
        "ops_cpu": found.ops_cpu,
        "latency_ms": found.latency.ms,
        "latency_low_ms": found.latency.low_ms,
        "latency_high_ms": found.latency.high_ms,
        "latency_p90_ms": found.latency.p90_ms,
        "latency_source": found.latency.source,
        "reason": found.latency.reason,
    }


def find_target(params: Params) -> Target:
    """Give the target that `target.backend` names. The import of each stays here: one may lack what another needs."""
    if params.target.backend == "ai-hub":
        from bitladder.targets.aihub import AiHub

        return AiHub(params.soc, params.target)
    from bitladder.targets.hexagon import Hexagon, Snapdragon

    return {"hexagon-emulator": Hexagon, "snapdragon": Snapdragon}[params.target.backend](params.soc, params.target)

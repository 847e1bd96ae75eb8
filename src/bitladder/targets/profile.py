"""What a target says of a rung, in one form for every backend: the metrics/target/*.json files."""

import shutil
from pathlib import Path
from pkgutil import resolve_name

from bitladder.network.evaluate import Outputs, agreement, sqnr_db
from bitladder.network.model import load_split
from bitladder.network.per_sample import scores_of
from bitladder.params import TARGETS, Params, TargetParams
from bitladder.paths import FP32_OUTPUTS, TASK, WORK, RungFiles, samples
from bitladder.records import Measurement
from bitladder.running.files import hash_path, load_tensors, read_json, write_json
from bitladder.running.resume import fingerprint, workspace
from bitladder.socs import Soc
from bitladder.statistics.scores import FP32, NETWORK, SIMULATION, Scores, read_scores, save_scores
from bitladder.targets.record import memory_of, precision_of
from bitladder.targets.target import Job, Target
from bitladder.tasks.task import Metric, load_task

__all__ = ["find_target", "profile", "profile_rung"]

MEASURED, COMPILED, SCORES = "measured.json", "compiled", "scores.safetensors"

KEPT = 4  # of a rung on a SoC: the one before an edit is asked for again when that is undone


Profiled = tuple[Measurement, dict[str, Scores]]
"""A model's record on a SoC, and the scores there of itself, of the simulation and of FP32."""


def profile_rung(params: Params, rung: str, soc: Soc) -> Profiled:
    """Measure an exported rung, or FP16, on a SoC, with what the stages before left in build/.

    What was measured is kept: where another SoC is added, the stage runs again, and only that one is measured.
    """
    files, data, settings = RungFiles(rung), samples("evaluation"), params.target
    folder, own = files.compiled / soc.name, (settings.backend, settings.samples, settings.warmup, settings.runs)
    key = fingerprint(soc, params.task, own, files=(TASK, files.model, files.outputs, FP32_OUTPUTS, data))
    kept = WORK / f"measured-{rung}-{soc.name}"
    if (known := _find(kept / key, folder)) is not None:
        return known
    with workspace(f"profile-{rung}-{soc.name}", key) as work:
        split = load_split(data).first(settings.samples)
        profiled = profile(
            Job(files.model, precision_of(params, rung), split, folder, files.notes / soc.name, work),
            load_task(params.task.factory, params.task.args).metric,
            (load_tensors(FP32_OUTPUTS), load_tensors(files.outputs)),
            soc,
            settings,
        )
        _keep(kept, key, profiled, folder)
    return profiled


def _keep(kept: Path, key: str, profiled: Profiled, folder: Path) -> None:
    """Keep a record, its scores and what was compiled, and of those before only the last few."""
    record, scores = profiled
    shutil.copytree(folder, kept / key / COMPILED, dirs_exist_ok=True)
    save_scores(kept / key / SCORES, scores)
    write_json(kept / key / MEASURED, {"record": record.model_dump(), "compiled": hash_path(folder)}, exact=True)
    newest = sorted(kept.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for old in newest[:-KEPT]:
        shutil.rmtree(old)


def _find(kept: Path, folder: Path) -> Profiled | None:
    """Give a record and scores that were kept, and put what was compiled in its place; None if there are none.

    DVC deletes the folder before the stage runs: to have it stay, DVC would leave the stage out of its run cache.
    """
    if not (kept / MEASURED).is_file() or not (kept / SCORES).is_file():
        return None
    found = read_json(kept / MEASURED)
    if found["compiled"] != hash_path(kept / COMPILED):
        return None
    shutil.copytree(kept / COMPILED, folder, dirs_exist_ok=True)
    return Measurement.model_validate(found["record"]), read_scores(kept / SCORES)


def profile(
    job: Job, metric: Metric, references: tuple[Outputs, Outputs], soc: Soc, settings: TargetParams
) -> Profiled:
    """Measure a model on the target that `target.backend` names, and compare its outputs.

    Args:
        job: the model, the samples, and where things go.
        metric: the task's.
        references: the outputs of FP32 and of the simulation (QuantSim, or the FP16 module), of the whole split or
            more: the first samples count.
        soc: the chip.
        settings: target and limits.

    Returns: the record of this SoC; the scores there, of the simulation and of FP32. `drop` is against FP32,
    `agreement`, `sqnr_db` and `gap` against the simulation, all on the same samples; `reference_value` is the
    simulation's metric on them.

    Raises UserError where the target refuses the model, fails, or takes too long.

    """
    found, split = find_target(soc, settings).measure(job), job.split
    fp32, simulated = ({name: values[: len(split)] for name, values in outputs.items()} for outputs in references)
    sides = {FP32: fp32, SIMULATION: simulated, NETWORK: found.outputs}
    scores = {name: scores_of(metric, outputs, split.targets) for name, outputs in sides.items()}
    value, reference_value = scores[NETWORK].total, scores[SIMULATION].total
    record = Measurement(
        backend=settings.backend,
        soc=soc.name,
        samples=len(split),
        value=value,
        drop=metric.drop(scores[FP32].total, value),
        reference_value=reference_value,
        gap=abs(metric.drop(reference_value, value)),
        agreement=agreement(simulated, found.outputs, split.targets),
        sqnr_db=sqnr_db(simulated, found.outputs),
        memory_bytes=found.memory_bytes,
        weights_bytes=found.weights_bytes,
        memory=memory_of(found.memory, "this target gives no context binary that tells"),
        ops_npu=found.ops_npu,
        ops_cpu=found.ops_cpu,
        latency_ms=found.latency.ms,
        latency_low_ms=found.latency.low_ms,
        latency_high_ms=found.latency.high_ms,
        latency_p90_ms=found.latency.p90_ms,
        latency_source=found.latency.source,
        reason=found.latency.reason,
    )
    return record, scores


def find_target(soc: Soc, settings: TargetParams) -> Target:
    """Give the target that `target.backend` names. It is imported here: one may lack what another needs."""
    target: Target = resolve_name(TARGETS[settings.backend])(soc, settings)
    return target

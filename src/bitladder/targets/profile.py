"""What a target says of a rung, in one form for every backend: the metrics/target/*.json files."""

import json
import shutil
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

from pydantic import ValidationError

from bitladder.errors import RefusedError
from bitladder.network.outputs import Outputs, StoredOutputs
from bitladder.network.scoring import Tally
from bitladder.params import TARGETS, Params, TargetParams
from bitladder.paths import TASK, WORK, RungFiles, samples
from bitladder.records import Measurement, SideBySide
from bitladder.running.files import copy_file, hash_path, read_json, write_json
from bitladder.running.resume import fingerprint, workspace
from bitladder.socs import Soc
from bitladder.statistics.scores import FP32, NETWORK, SIMULATION, Scores, read_scores, save_scores
from bitladder.targets.cluster_pool import cluster_pool
from bitladder.targets.exact import Whole, prove, run_whole
from bitladder.targets.record import memory_of, precision_of
from bitladder.targets.side_by_side import compare
from bitladder.targets.target import Job, Measured, Target
from bitladder.tasks.metric import Metric
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["find_target", "profile", "profile_rung"]

MEASURED, COMPILED, SCORES = "measured.json", "compiled", "scores.safetensors"

BATCH = 4  # samples that are compared at a time; each may have outputs of many MB

KEPT = 4  # of a rung on a SoC: the one before an edit is asked for again when that is undone


def profile_rung(params: Params, rung: str, soc: Soc) -> Measurement:
    """Measure an exported rung, or FP16, on a SoC, with what the stages before left in build/.

    What was measured is kept: where another SoC is added, the stage runs again, and only that one is measured.
    """
    files, data, settings = RungFiles(rung), samples("evaluation"), params.target
    folder, precision = files.compiled / soc.name, precision_of(params, rung)
    emulated = settings.backend == "hexagon-emulator"
    exact = settings.exact == "auto" and emulated and precision != "FP16"
    device = (settings.host, settings.serial, settings.emulated)
    own = (settings.backend, device, settings.samples, settings.warmup, settings.runs, exact)
    made_of = (TASK, files.model, files.reference, files.scores, data)
    key = fingerprint(soc, params.task, own, hash_path(files.outputs), files=made_of)
    kept = WORK / f"measured-{rung}-{soc.name}"
    if (record := _find(kept / key, folder, files.target_scores(soc.name))) is not None:
        return record
    with workspace(f"profile-{rung}-{soc.name}", key) as work:
        task = load_task(params.task.factory, params.task.args)
        split = load_samples(task, params, "evaluation")
        emulators = partial(cluster_pool, params.compute) if params.compute.cluster and emulated else None
        record, found = profile(
            Job(files.model, precision, split.first(settings.samples), folder, files.notes / soc.name, work, emulators),
            task.metric,
            (StoredOutputs(files.outputs), read_scores(files.reference)[FP32].total),
            soc,
            settings,
            Whole(split, read_scores(files.scores)) if exact else None,
        )
        save_scores(files.target_scores(soc.name), found)
        _keep(kept, key, record, folder, files.target_scores(soc.name))
    return record


def _keep(kept: Path, key: str, record: Measurement, folder: Path, scores: Path) -> None:
    """Keep a record, the metric of each sample and what was compiled, and of those before only the last few."""
    shutil.copytree(folder, kept / key / COMPILED, dirs_exist_ok=True)
    copy_file(scores, kept / key / SCORES)
    write_json(kept / key / MEASURED, {"record": record.model_dump(), "compiled": hash_path(folder)}, exact=True)
    newest = sorted(kept.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for old in newest[:-KEPT]:
        shutil.rmtree(old)


def _find(kept: Path, folder: Path, scores: Path) -> Measurement | None:
    """Give a record that was kept, and put what was compiled in its place; None if there is none.

    DVC deletes the folder before the stage runs: to have it stay, DVC would leave the stage out of its run cache.
    """
    if not (kept / MEASURED).is_file():
        return None
    found = read_json(kept / MEASURED)
    if found["compiled"] != hash_path(kept / COMPILED):
        return None
    try:
        record = Measurement.model_validate_json(json.dumps(found["record"]))  # where JSON's lists are tuples
    except ValidationError:  # kept by another version
        return None
    shutil.copytree(kept / COMPILED, folder, dirs_exist_ok=True)
    copy_file(kept / SCORES, scores)
    return record


def profile(
    job: Job,
    metric: Metric,
    reference: tuple[StoredOutputs, float],
    soc: Soc,
    settings: TargetParams,
    whole: Whole | None = None,
) -> tuple[Measurement, dict[str, Scores]]:
    """Measure a model on the target that `target.backend` names, and compare its outputs.

    Args:
        job: the model, the samples, and where things go.
        metric: the task's.
        reference: the outputs of the simulation (QuantSim, or the FP16 module) on these samples, and FP32's metric on
            them.
        soc: the chip.
        settings: target and limits.
        whole: what a model of the NPU runs where it is proved on these samples; None: there is none.

    Returns: the record of this SoC, and the metric of each sample, the simulation's too. `drop` is against FP32,
    `agreement`, `sqnr_db` and `gap` against the simulation, all on the same samples; `reference_value` is the
    simulation's metric on them.

    Raises UserError where the target refuses the model, fails, or takes too long.

    """
    found, (simulated, fp32) = find_target(soc, settings).measure(job), reference
    tally, done = Tally(metric), 0
    for inputs, targets in job.split.batches(BATCH):
        stop = done + len(next(iter(inputs.values())))
        outputs = _part(found.outputs, done, stop)
        if not all(values.isfinite().all() for values in outputs.values()):
            raise RefusedError(f"{job.model}: outputs on {soc.name} hold infinity or NaN")
        tally.add(outputs, simulated.read(done, stop), targets)
        done = stop
    scored = tally.score()
    compared = scored.comparison
    record = Measurement(
        backend=settings.backend,
        soc=soc.name,
        samples=compared.samples,
        value=compared.value,
        drop=metric.drop(fp32, compared.value),
        reference_value=scored.reference_value,
        gap=abs(compared.drop),
        agreement=compared.agreement,
        sqnr_db=compared.sqnr_db,
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
        device=found.device,
        side_by_side=_beside(job, metric, found, simulated),
    )
    scores = {SIMULATION: scored.reference_scores, NETWORK: scored.scores}
    if whole is None or not isinstance(found.outputs, StoredOutputs):
        return record, scores
    proof, executor = prove(job, found.outputs, soc, settings)
    if executor is None or len(job.split) == len(whole.samples):
        return record.model_copy(update={"exact": proof}), scores
    return run_whole(executor, whole, metric, proof, record, job.workspace)


def _beside(job: Job, metric: Metric, found: Measured, simulated: StoredOutputs) -> SideBySide | None:
    if found.emulated is None or not isinstance(found.outputs, StoredOutputs):
        return None
    return compare(job.split, metric, found.outputs, found.emulated, simulated)


def _part(outputs: Outputs | StoredOutputs, start: int, stop: int) -> Outputs:
    if isinstance(outputs, StoredOutputs):
        return outputs.read(start, stop)
    return {name: values[start:stop] for name, values in outputs.items()}


def find_target(soc: Soc, settings: TargetParams) -> Target:
    """Give the target that `target.backend` names. It is imported here: one may lack what another needs."""
    target: Target = resolve_name(TARGETS[settings.backend])(soc, settings)
    return target

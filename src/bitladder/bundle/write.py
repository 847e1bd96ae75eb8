"""The bundle: what the target needs of the chosen rung, and what proves that it is what the pipeline measured."""

import inspect
import platform
import shutil
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from bitladder.bundle.arrays import save_arrays
from bitladder.bundle.card import write_card
from bitladder.bundle.manifest import write_manifest
from bitladder.bundle.sbom import write_sbom
from bitladder.network.outputs import Outputs, StoredOutputs
from bitladder.params import Params
from bitladder.paths import BUILD, DECISION, TASK, RungFiles, evaluated, samples
from bitladder.records import Decision, Evaluation, ExportCheck, Record, RungDecision, TargetRecord, read_record
from bitladder.running.files import copy_file, hash_path, read_json
from bitladder.running.resume import fingerprint, workspace
from bitladder.running.version import RELEASE, installed
from bitladder.socs import Soc, find_soc
from bitladder.targets import runner
from bitladder.targets.backend import CONTEXT_FILE
from bitladder.targets.context import Compiled, run
from bitladder.tasks.samples import SPLITS, Samples, Split, in_memory
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import Task, load_task

__all__ = ["write_bundle"]

SAMPLES, TARGETS, ANSWERS = "samples.npz", "targets.npz", "answers.npz"
"""Files of the bundle; the outputs lie in the folder of their SoC."""

RECORDED_BYTES = 2**28
"""What the recorded samples and their outputs take at most: all of it is in memory at once, here and in `verify`."""

LIBRARIES = ("aimet-torch", "aimet-onnx", "numpy", "onnx", "onnxruntime", "onnxruntime-qnn", "torch")

STATED = (
    "seed", "task", "train", "evaluate", "prepare", "goals", "verify", "ladder", "ptq", "qat", "export",
    "bundle",
)  # fmt: skip
"""Blocks of params.yaml that the manifest repeats: those, and no more, that dvc.yaml lists for this stage."""

STATED_OF = {
    "compute": ("threads", "device"),
    "target": ("backend", "soc", "samples", "max_gap", "max_relative_gap"),
}
"""Keys of further blocks."""


def write_bundle(params: Params, folder: Path) -> None:
    """Write the bundle of the rung that metrics/decision.json chose, whole or not at all.

    Where it chose none, the bundle is a manifest that says so. Raises UserError where something is missing, or the
    emulator does not load what was compiled.
    """
    decision = read_record(Decision, DECISION)
    entry = decision.of(decision.chosen)
    binaries = sorted((BUILD / "target").rglob("*.bin"))
    key = fingerprint(params, decision, files=(samples("evaluation"), *binaries))
    with workspace("bundle", key) as work:
        made = work / folder.name
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        if entry is None:
            write_manifest(made, _nothing(params, decision.reason))
        else:
            _fill(made, params, decision.reason, entry, work)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _fill(folder: Path, params: Params, reason: str, entry: RungDecision, work: Path) -> None:
    files = RungFiles(entry.rung)
    copy_file(files.model, folder / "model.onnx")
    for path in sorted(files.aimet.glob("*")):
        copy_file(path, folder / "aimet" / path.name)
    task = load_task(params.task.factory, params.task.args)
    split = in_memory(_few(load_samples(task, params, "evaluation"), StoredOutputs(files.outputs), params))
    save_arrays(folder / SAMPLES, {name: values.numpy() for name, values in split.inputs.items()})
    if known := isinstance(split.targets, Tensor):
        save_arrays(folder / TARGETS, {"targets": split.targets.numpy()})
    socs = {}
    for name in _compiled(files, params):
        for path in sorted((files.compiled / name).iterdir()):
            copy_file(path, folder / name / path.name)
        socs[name] = _chip(folder, find_soc(name), entry, params, split, work / name)
        outputs = socs[name].pop("outputs")
        socs[name]["value"] = None if outputs is None else task.metric(outputs, split.targets)
    values = {
        "rung": files.rung,
        "reason": reason,
        "precision": entry.precision,
        "technique": entry.technique,
        "socs": socs,
        "recorded": {
            "file": SAMPLES,
            "targets": TARGETS if known else None,
            "samples": len(split),
            "metric": task.metric.name,
        },
        "metrics": {path.as_posix(): read_record(kind, path).content() for path, kind in _records(files).items()},
        "sources": entry.sources.model_dump(),
        **_circumstances(params),
    }
    copy_file(Path(runner.__file__), folder / "runner.py")
    write_card(folder / "README.md", values, split, _described(task))
    write_sbom(folder / "sbom.cdx.json", folder, values)
    write_manifest(folder, values)


def _few(evaluation: Samples, outputs: StoredOutputs, params: Params) -> Samples:
    """Give the samples to record: fewer than are asked for, where they and their outputs are large."""
    (inputs, _), first = next(evaluation.first(1).batches(1)), outputs.read(0, 1)
    each = sum(values.nbytes for values in (*inputs.values(), *first.values()))
    return evaluation.first(min(params.bundle.samples, max(1, RECORDED_BYTES // each)))


def _chip(folder: Path, soc: Soc, entry: RungDecision, params: Params, split: Split, work: Path) -> dict[str, Any]:
    """Run the recorded samples on what was compiled for one SoC, from the bundle itself."""
    context = folder / soc.name / CONTEXT_FILE
    chip = {"soc_model": soc.soc_model, "arch": soc.arch, "value": None, "reason": None, "outputs": None}
    if not context.exists():
        reason = f"no context binary that the emulator loads: {params.target.backend} compiled for another runtime"
        return {**chip, "qairt": None, "context": None, "answers": None, "reason": reason}
    work.mkdir(parents=True, exist_ok=True)
    compiled = Compiled(context, 0, 0, 0)
    outputs: Outputs = run(compiled, soc, entry.precision == "FP16", split, params.target, work)
    save_arrays(context.with_name(ANSWERS), {name: values.numpy() for name, values in outputs.items()})
    inside = {"context": f"{soc.name}/{CONTEXT_FILE}", "answers": f"{soc.name}/{ANSWERS}"}
    return {**chip, **inside, "qairt": _qairt(context), "outputs": outputs}


def _qairt(context: Path) -> str | None:
    """Read the version of QAIRT's compiler out of the ONNX file that wraps a context binary."""
    for node in onnx.load(context, load_external_data=False).graph.node:
        for attribute in node.attribute:
            if attribute.name == "ep_sdk_version":
                return attribute.s.decode()
    return None


def _compiled(files: RungFiles, params: Params) -> list[str]:
    """Name the SoCs that something was compiled for, target.soc first: further ones may not take the rung."""
    record = read_record(TargetRecord, files.on_target)
    further = [name for name, other in sorted(record.socs.items()) if other.value is not None]
    return [params.soc.name, *further]


def _records(files: RungFiles) -> dict[Path, type[Record]]:
    quantized = {files.export_metrics: ExportCheck} if files.rung != "fp16" else {}
    return {evaluated("fp32"): Evaluation, files.off_target: Evaluation, **quantized, files.on_target: TargetRecord}


def _nothing(params: Params, reason: str) -> dict[str, Any]:
    empty = {"rung": None, "precision": None, "technique": None, "recorded": None}
    return {**empty, "reason": reason, "socs": {}, "metrics": {}, "sources": {}, **_circumstances(params)}


def _circumstances(params: Params) -> dict[str, Any]:
    """Say what the bundle came from: params, task, data and versions."""
    dumped = params.model_dump(mode="json")
    parts = {block: {key: dumped[block][key] for key in keys} for block, keys in STATED_OF.items()}
    return {
        "params": {**{key: dumped[key] for key in STATED}, **parts},
        "task": read_json(TASK)["files"],
        "data": {name: hash_path(samples(name)) for name in SPLITS},
        "versions": {
            # The release: a hash of all code would change where no stage of this bundle does
            "bitladder": params.bitladder or RELEASE,
            **{name: installed(name) for name in LIBRARIES},
            "python": platform.python_version(),
        },
    }


def _described(task: Task) -> str:
    """Give what the task's author wrote above its network; empty where nothing.

    An object that is called, such as OnnxModel, has its class's docstring, which is not theirs.
    """
    own = inspect.isroutine(task.model) or inspect.isclass(task.model)
    return " ".join(((own and task.model.__doc__) or "").split())

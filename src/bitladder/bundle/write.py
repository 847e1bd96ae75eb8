"""The bundle: what the target needs of the chosen rung, and what proves that it is what the pipeline measured."""

import inspect
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from bitladder.bundle.arrays import save_arrays
from bitladder.bundle.card import write_card
from bitladder.bundle.manifest import write_manifest
from bitladder.bundle.sbom import write_sbom
from bitladder.decision.results import METRICS
from bitladder.network.evaluate import Outputs
from bitladder.network.model import load_split
from bitladder.params import Params
from bitladder.running.files import copy_file, hash_path, read_json
from bitladder.running.resume import fingerprint, workspace
from bitladder.running.version import RELEASE, installed
from bitladder.socs import Soc, find_soc
from bitladder.targets import runner
from bitladder.targets.backend import CONTEXT_FILE
from bitladder.targets.hexagon import Compiled, run
from bitladder.tasks.task import SPLITS, Split, Task, load_task

__all__ = ["write_bundle"]

SAMPLES, TARGETS, ANSWERS = "samples.npz", "targets.npz", "answers.npz"
"""Files of the bundle; the answers lie in the folder of their SoC."""

LIBRARIES = ("aimet-torch", "aimet-onnx", "numpy", "onnx", "onnxruntime", "onnxruntime-qnn", "torch")

STATED = (
    "seed", "compute", "task", "train", "evaluate", "prepare", "goals", "verify", "ladder", "ptq", "qat", "export",
    "bundle",
)  # fmt: skip
"""Blocks of params.yaml that the manifest repeats: those, and no more, that dvc.yaml lists for this stage."""

STATED_OF_TARGET = ("backend", "soc", "samples", "max_gap")


@dataclass(frozen=True)
class Source:
    """Where the pipeline left what belongs to the chosen rung."""

    rung: str
    precision: str

    @property
    def model(self) -> Path:
        """The exported ONNX."""
        return Path(f"build/export/{self.rung}/model.onnx")

    @property
    def encodings(self) -> Path:
        """AIMET's encodings with the float ONNX that they belong to; FP16 has none."""
        return Path(f"build/export/{self.rung}/aimet")

    def compiled(self, soc: Soc) -> dict[str, Path]:
        """Folders of compiled models by SoC: the first SoC's, then those of the further ones that take the rung."""
        further = Path(f"build/socs/{self.rung}")
        others = {path.name: path for path in sorted(further.glob("*")) if path.is_dir()}
        return {soc.name: Path(f"build/target/{self.rung}"), **others}


def write_bundle(params: Params, folder: Path) -> None:
    """Write the bundle of the rung that metrics/decision.json chose, whole or not at all.

    Where it chose none, the bundle is a manifest that says so. Raises UserError where something is missing, or the
    emulator does not load what was compiled.
    """
    decision = read_json(METRICS / "decision.json")
    binaries = sorted(path for kind in ("target", "socs") for path in Path(f"build/{kind}").rglob("*.bin"))
    key = fingerprint(params, decision, files=(Path("build/data/evaluation.safetensors"), *binaries))
    with workspace("bundle", key) as work:
        made = work / folder.name
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        if decision["chosen"] is None:
            write_manifest(made, _nothing(params, decision))
        else:
            _fill(made, params, decision, work)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _fill(folder: Path, params: Params, decision: Mapping[str, Any], work: Path) -> None:
    entry = next(entry for entry in decision["trail"] if entry["rung"] == decision["chosen"])
    source = Source(entry["rung"], entry["precision"])
    copy_file(source.model, folder / "model.onnx")
    for path in sorted(source.encodings.glob("*")):
        copy_file(path, folder / "aimet" / path.name)
    task = load_task(params.task.factory, params.task.args)
    split = load_split(Path("build/data/evaluation.safetensors")).first(params.bundle.samples)
    save_arrays(folder / SAMPLES, {name: values.numpy() for name, values in split.inputs.items()})
    save_arrays(folder / TARGETS, {"targets": split.targets.numpy()})
    socs = {}
    for name, compiled in source.compiled(params.soc).items():
        for path in sorted(path for path in compiled.iterdir() if path.is_file()):
            copy_file(path, folder / name / path.name)
        socs[name] = _chip(folder, find_soc(name), entry, params, split, work / name)
        answers = socs[name].pop("outputs")
        socs[name]["value"] = None if answers is None else task.metric(answers, split.targets)
    records = [f"{kind}/{name}.json" for kind, name in _records(source.rung)]
    values = {
        "rung": source.rung,
        "reason": decision["reason"],
        "precision": source.precision,
        "technique": entry["technique"],
        "socs": socs,
        "recorded": {"file": SAMPLES, "targets": TARGETS, "samples": len(split), "metric": task.metric.name},
        "metrics": {f"metrics/{record}": read_json(METRICS / record) for record in records},
        "sources": entry["sources"],
        **_circumstances(params),
    }
    copy_file(Path(runner.__file__), folder / "runner.py")
    write_card(folder / "README.md", values, split, _described(task))
    write_sbom(folder / "sbom.cdx.json", folder, values)
    write_manifest(folder, values)


def _chip(folder: Path, soc: Soc, entry: Mapping[str, Any], params: Params, split: Split, work: Path) -> dict[str, Any]:
    """Run the recorded samples on what was compiled for one SoC, from the bundle itself."""
    context = folder / soc.name / CONTEXT_FILE
    chip = {"soc_model": soc.soc_model, "arch": soc.arch, "value": None, "reason": None, "outputs": None}
    if not context.exists():
        reason = f"no context binary that the emulator loads: {params.target.backend} compiled for another runtime"
        return {**chip, "qairt": None, "context": None, "answers": None, "reason": reason}
    work.mkdir(parents=True, exist_ok=True)
    compiled = Compiled(context, 0, 0, 0)
    outputs: Outputs = run(compiled, soc, entry["precision"] == "FP16", split, params.target, work)
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


def _records(rung: str) -> list[tuple[str, str]]:
    quantized = [("export", rung)] if rung != "fp16" else []
    return [("eval", "fp32"), ("eval", rung), *quantized, ("target", rung)]


def _nothing(params: Params, decision: Mapping[str, Any]) -> dict[str, Any]:
    empty = {"rung": None, "precision": None, "technique": None, "recorded": None}
    return {**empty, "reason": decision["reason"], "socs": {}, "metrics": {}, "sources": {}, **_circumstances(params)}


def _circumstances(params: Params) -> dict[str, Any]:
    """Say what the bundle came from: params, task, data and versions."""
    dumped = params.model_dump(mode="json")
    target = {key: dumped["target"][key] for key in STATED_OF_TARGET}
    return {
        "params": {**{key: dumped[key] for key in STATED}, "target": target},
        "task": read_json(Path("build/task.json"))["files"],
        "data": {name: hash_path(Path(f"build/data/{name}.safetensors")) for name in SPLITS},
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

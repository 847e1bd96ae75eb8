"""What a report's figures were made from: revision, task, data, weights, repairs, versions."""

import json

from bitladder.params import Params
from bitladder.paths import BUILD, RungFiles, evaluated
from bitladder.records import Evaluation, ExportCheck, TargetRecord, read_record
from bitladder.report.sides import device_line
from bitladder.running import git
from bitladder.running.files import locked_stages
from bitladder.running.version import RELEASE, installed

__all__ = ["facts"]

PACKAGES = ("aimet-torch", "torch", "onnx", "onnxruntime", "onnxruntime-qnn", "dvc")


def facts(params: Params) -> list[tuple[str, str]]:
    """Name what the figures were made from, each with what to call it."""
    revision, changed = git.state()
    uncommitted = f", and changes not committed in {changed} files" if changed else ""
    found = [
        ("git revision", f"{revision or 'not in git'}{uncommitted}"),
        ("task", f"{params.task.factory} {json.dumps(params.task.args)}"),
        ("target", f"{params.target.soc} ({params.soc.arch}) by {params.target.backend}"),
        *_devices(params),
        ("seed", str(params.seed)),
    ]
    found += [(f"md5 of {path}", digest) for path, digest in _hashes(("data", "train"))]
    found += _repairs(params)
    versions = [f"bitladder {RELEASE}", *(f"{name} {installed(name) or 'not installed'}" for name in PACKAGES)]
    return [*found, ("versions here", ", ".join(versions))]


def _devices(params: Params) -> list[tuple[str, str]]:
    """Say what each rung was measured on, where it was a device."""
    paths = {rung: RungFiles(rung).on_target for rung in ("fp16", *params.rungs())}
    records = {rung: read_record(TargetRecord, path) for rung, path in paths.items() if path.exists()}
    return [(f"device of {rung}", device_line(one.device)) for rung, one in records.items() if one.device]


def _repairs(params: Params) -> list[tuple[str, str]]:
    """Name what was put right for the NPU in the graphs of FP16 and of each rung, by rule."""
    records: dict[str, Evaluation | ExportCheck] = {"fp16": read_record(Evaluation, evaluated("fp16"))}
    for rung in params.rungs():
        if (path := RungFiles(rung).export_metrics).exists():
            records[rung] = read_record(ExportCheck, path)
    found = []
    for rung, record in records.items():
        nodes: dict[str, list[str]] = {}
        for one in record.repairs or ():
            nodes.setdefault(one.rule, []).append(one.node)
        if nodes:
            said = "; ".join(f"{rule}: {', '.join(names)}" for rule, names in nodes.items())
            found.append((f"put right for the NPU in {rung}", said))
    return found


def _hashes(stages: tuple[str, ...]) -> list[tuple[str, str]]:
    """Give path and hash of the outputs of stages, from dvc.lock."""
    recorded = locked_stages()
    return [
        (out["path"], out["md5"])
        for stage in stages
        for out in recorded.get(stage, {}).get("outs", [])
        if out["path"].startswith(f"{BUILD}/")
    ]

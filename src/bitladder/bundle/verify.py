"""`bitladder verify`: whether a bundle, come from wherever, is what was written, and gives the same outputs.

No code that the bundle holds is executed: its runner is not, and the task whose metric is repeated is the one that the
user's own params.yaml names. Its ONNX files and context binaries are read by native code, in processes of their own.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from bitladder.bundle.arrays import load_arrays
from bitladder.bundle.graphs import graph_problems
from bitladder.bundle.manifest import Manifest, changed_files, read_manifest
from bitladder.bundle.ship import read_provenance
from bitladder.errors import UserError
from bitladder.network.evaluate import agreement, sqnr_db
from bitladder.network.outputs import Outputs
from bitladder.params import Params, TargetParams
from bitladder.socs import Soc
from bitladder.targets.context import Compiled, run
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Split

__all__ = ["opened", "verify"]

WORKERS = 2


@contextmanager
def opened(bundle: Path) -> Iterator[Path]:
    """Give the folder of a bundle; one that `bitladder ship` packed is unpacked for the time, its paths checked.

    Raises UserError where the archive or its provenance is damaged.
    """
    if not bundle.is_file():
        yield bundle
        return
    with TemporaryDirectory() as folder:
        try:
            with tarfile.open(bundle, "r:") as archive:
                archive.extractall(folder, filter="data")  # nothing outside of it, no links out of it, no devices
        except (tarfile.TarError, OSError, ValueError) as error:
            raise UserError(f"{bundle}: not an archive that can be unpacked ({' '.join(str(error).split())})") from None
        read_provenance(Path(folder))
        yield Path(folder) / "deploy"


def verify(folder: Path, params: Params | None, limit_s: float) -> tuple[list[str], list[str]]:
    """Check a bundle: every byte, the graphs, and the outputs on the recorded samples.

    Args:
        folder: of the bundle.
        params: the user's own, whose task repeats the metric where it is the bundle's; None if there are none.
        limit_s: how long an inference on the emulator may take, and the reading of a graph.

    Returns: what holds, and what does not, each in lines. Nothing is run where a byte has changed.

    """
    manifest = read_manifest(folder)
    if changed := changed_files(folder, manifest):
        return [], changed
    good = [f"{len(manifest.files)} files and the manifest are as they were written"]
    if manifest.rung is None:
        return [*good, f"it ships nothing: {manifest.reason}"], []
    bad = graph_problems(folder, [name for name in manifest.files if name.endswith(".onnx")], limit_s)
    if bad or manifest.recorded is None:
        return good, bad
    metric = _metric(manifest, params)
    for name, chip in manifest.socs.items():
        if chip.context is None or chip.answers is None:
            good.append(f"{name}: not run: {chip.reason}")
            continue
        recorded = {key: torch.from_numpy(values) for key, values in load_arrays(folder / chip.answers).items()}
        outputs, split = _outputs(folder, manifest, name, limit_s)
        same = _same(recorded, outputs)
        (good if same else bad).append(f"{name}: {_compared(recorded, outputs, same, split)}")
        repeated = metric is not None and split.targets is not None
        value = metric(outputs, split.targets) if metric and repeated else chip.value
        how = f"repeated; {chip.value} was recorded" if repeated else "as recorded, from the same outputs"
        if same or repeated:
            (good if value == chip.value else bad).append(f"{name}: {manifest.recorded.metric} {value} ({how})")
    return good, bad


def _metric(manifest: Manifest, params: Params | None) -> Metric | None:
    stated: Any = manifest.params.get("task")
    if params is None or not isinstance(stated, dict):
        return None
    own = params.task.model_dump(mode="json")
    if (own["factory"], own["args"]) != (stated.get("factory"), stated.get("args")):
        return None
    from bitladder.tasks.task import load_task

    return load_task(params.task.factory, params.task.args).metric


def _outputs(folder: Path, manifest: Manifest, name: str, limit_s: float) -> tuple[Outputs, Split]:
    assert manifest.recorded
    chip = manifest.socs[name]
    inputs = {key: torch.from_numpy(values) for key, values in load_arrays(folder / manifest.recorded.file).items()}
    targets = _targets(folder / manifest.recorded.targets) if manifest.recorded.targets else None
    split = Split(inputs, targets)
    counts = {len(values) for values in (*inputs.values(), *(() if targets is None else (targets,)))}
    if counts != {manifest.recorded.samples}:
        raise UserError(f"{folder / manifest.recorded.file}: holds other samples than the manifest says")
    soc = Soc(name, chip.soc_model, chip.arch, ())
    settings = TargetParams(
        backend="hexagon-emulator", soc="SM8650", samples=len(split), max_gap=None, max_relative_gap=None,
        workers=WORKERS, compile_limit_s=limit_s, sample_limit_s=limit_s,
    )  # fmt: skip
    with TemporaryDirectory() as work:
        context = Compiled((folder / str(chip.context)).resolve(), 0, 0, 0)
        return run(context, soc, manifest.precision == "FP16", split, settings, Path(work)), split


def _targets(path: Path) -> Tensor:
    beside = load_arrays(path)
    if "targets" not in beside:
        raise UserError(f"{path}: has no array 'targets'")
    return torch.from_numpy(beside["targets"])


def _same(recorded: Outputs, outputs: Outputs) -> bool:
    return recorded.keys() == outputs.keys() and all(torch.equal(recorded[name], outputs[name]) for name in recorded)


def _compared(recorded: Outputs, outputs: Outputs, same: bool, split: Split) -> str:
    if same:
        return f"the emulator gives the recorded outputs, bit for bit, on {len(split)} samples"
    shapes = [{name: tuple(values.shape) for name, values in given.items()} for given in (recorded, outputs)]
    if shapes[0] != shapes[1]:
        return f"outputs are {shapes[1]}, and {shapes[0]} were recorded"
    agreed = agreement(recorded, outputs, split.targets)
    top = "" if agreed is None else f", top-1 agrees on {agreed:.1%}"
    return f"outputs differ from the recorded ones: {sqnr_db(recorded, outputs):.1f} dB on {len(split)} samples{top}"

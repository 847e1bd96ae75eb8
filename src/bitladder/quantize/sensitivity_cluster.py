"""Sensitivity over a cluster: each worker that sees this folder measures a part of the layers."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from bitladder.params import Params
from bitladder.paths import PREPARED, TASK, samples
from bitladder.quantize.sensitivity import Layers, Sensitivity, asked, load_layers
from bitladder.quantize.sim.layers import What
from bitladder.running.cluster import Cluster
from bitladder.running.cluster_folder import SharedFolder
from bitladder.running.cluster_worker import NotHereError

__all__ = ["measure_over"]


def measure_over(cluster: Cluster, params: Params) -> list[Sensitivity]:
    """Measure what `measure` does, with the same bits. What no worker can do is done here: one that lacks the files."""
    files, compute = (PREPARED, samples("calibration"), TASK), params.compute
    shared = SharedFolder(cluster, files, compute.threads, compute.device)
    parts, text = shared.places, params.model_dump_json()
    work = [(text, what, bits, part, parts) for what, bits in asked(params.sensitivity) for part in range(parts)]
    futures = [shared.schedule(_measure_part, *each) for each in work]
    found: list[list[Sensitivity]] = []
    for each, future in tqdm(zip(work, futures, strict=True), desc="layers", unit="part", total=len(work)):
        try:
            found.append(future.result())
        except NotHereError:
            found.append(_measure_part(*each))
    rows: list[Sensitivity] = []
    for start in range(0, len(work), parts):  # a worker has each of the layers whose turn it is
        taken = found[start : start + parts]
        rows += [taken[index % parts][index // parts] for index in range(sum(map(len, taken)))]
    return rows


def _measure_part(params: str, what: What, bits: int, part: int, parts: int) -> list[Sensitivity]:
    return _layers(Path.cwd(), params).measure(what, bits, slice(part, None, parts), quiet=True)


@cache
def _layers(folder: Path, text: str) -> Layers:
    """Load what the stages before have left in this folder."""
    _kept.append(TemporaryDirectory())
    return load_layers(Params.model_validate_json(text), Path(_kept[-1].name))


_kept: list[TemporaryDirectory[str]] = []
"""Folders of FP32's outputs, for as long as a worker lives."""

"""What is wrong with a bundle's ONNX files, looked for in a process of its own. Starts without torch.

A stranger's file goes to native code there, protobuf's and the checker's: it may take that process down, or keep it
busy for ever, and not this one.
"""

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from pebble import ProcessExpired

from bitladder.targets.workers import worker_pool

__all__ = ["graph_problems"]


def graph_problems(folder: Path, names: Sequence[str], limit_s: float) -> list[str]:
    """Say what is wrong with ONNX files of a bundle: damaged, or naming files outside of the bundle.

    Args:
        folder: of the bundle.
        names: of the files in it.
        limit_s: how long the reading of one may take.

    """
    found: list[str] = []
    with TemporaryDirectory() as work, worker_pool(1, Path(work)) as pool:
        for name in names:
            try:
                found += pool.schedule(_problems, args=(folder, name), timeout=limit_s).result()
            except TimeoutError:
                found.append(f"{name}: not a sound ONNX file (reading it takes longer than {limit_s:g} s)")
            except (ProcessExpired, BrokenExecutor) as death:
                found.append(f"{name}: not a sound ONNX file (what reads it died: {death})")
    return found


def _problems(folder: Path, name: str) -> list[str]:
    path = folder / name
    try:
        graph = onnx.load(path, load_external_data=False).graph
        if outside := [one for one in _files(graph) if not _inside(folder, path.parent, one)]:
            return [f"{name}: names a file that is not in the bundle: {one[:200]!r}" for one in outside]
        onnx.checker.check_model(str(path))  # by its path, from which it finds the files that it names
    except Exception as error:  # protobuf's and the checker's own kinds share no base but Exception
        return [f"{name}: not a sound ONNX file ({' '.join(str(error).split())[:200]})"]
    return []


def _files(graph: onnx.GraphProto) -> list[str]:
    """Give the files that a graph names: of weights that lie beside it, and of context binaries."""
    named = [entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"]
    for node in graph.node:
        if node.op_type == "EPContext":
            fields = {attribute.name: attribute for attribute in node.attribute}
            if "ep_cache_context" in fields and not ("embed_mode" in fields and fields["embed_mode"].i):
                named.append(fields["ep_cache_context"].s.decode("utf-8", "replace"))
    return named


def _inside(folder: Path, place: Path, named: str) -> bool:
    beside = place / named
    return not Path(named).is_absolute() and beside.resolve().is_relative_to(folder.resolve()) and beside.is_file()

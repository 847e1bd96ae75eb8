"""Clocks around a stage's imports, and around its reading and writing; sitecustomize.py beside this starts them.

For benchmarks/pipeline.py, which names the folder for the figures in BITLADDER_TRACE. Imports are counted at the
outermost one; reading and writing is what bitladder.running.files does, which all stages pass their files through (but
for the ONNX files, which the libraries write as they export). Nothing is changed but for a clock around them.
"""

import builtins
import json
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

FILES = ("copy_file", "dvc_hash", "hash_path", "load_tensors", "locked_stages", "read_json", "save_tensors",
         "write_csv", "write_json", "write_text", "write_yaml")  # fmt: skip


def trace(folder: Path, words: list[str]) -> Callable[[], None]:
    """Start the clocks. Returns: what writes down what they say; call it when the stage ends."""
    spent = {"began": time.time(), "imports": 0.0, "files": 0.0}
    running: list[str] = []

    def clocked(kind: str, work: Callable) -> Callable:
        @wraps(work)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if kind in running:
                return work(*args, **kwargs)
            outer = running[-1] if running else None
            running.append(kind)
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                running.pop()
                passed = time.perf_counter() - start
                spent[kind] += passed
                if outer:
                    spent[outer] -= passed

        return wrapped

    def write() -> None:
        builtins.__import__ = original
        path = folder / f"{'@'.join([Path(words[0]).stem, *words[1:]])}.json"
        if not path.exists():  # or it ran in a fork, which has written it
            path.write_text(json.dumps({**spent, "ended": time.time()}), "utf-8")

    original = builtins.__import__
    builtins.__import__ = clocked("imports", original)
    import bitladder.running.files

    for name in FILES:
        setattr(bitladder.running.files, name, clocked("files", getattr(bitladder.running.files, name)))
    return write

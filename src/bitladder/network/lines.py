"""Which line of the user's code calls each layer of a network, so that a message can name it."""

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitladder.paths import PACKAGE
from bitladder.running.patches import in_force

__all__ = ["keep_lines", "line_of", "lines_kept", "module_lines", "tracing_lines"]

NOTE = "bitladder_lines"

_TRACE = re.compile(r'File "(.+?)", line (\d+)')

_LIBRARIES = ("torch", "aimet_torch", "aimet_onnx")


def module_lines(model: nn.Module, sample: tuple[Tensor, ...]) -> dict[str, str]:
    """Run a network, in evaluation mode, on a sample; give `file:line` of each module's first call, by its path."""
    found: dict[str, str] = {}

    def listen(name: str, module: nn.Module) -> Any:
        def hook(*_: Any) -> None:
            found.setdefault(name, _calling_line())

        return module.register_forward_pre_hook(hook)

    hooks = [listen(name, module) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(*sample)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def tracing_lines() -> Iterator[None]:
    """Have torch.fx note at each node where the user's code makes it."""
    if not in_force("traced-lines"):
        yield
        return
    before, fx.Tracer.record_stack_traces = fx.Tracer.record_stack_traces, True
    try:
        yield
    finally:
        fx.Tracer.record_stack_traces = before


def line_of(node: fx.Node) -> str:
    """Give `file:line` of what a traced node stands for; empty where it is not known."""
    places = [(file, int(line)) for file, line in _TRACE.findall(node.stack_trace or "") if _is_users(file)]
    return _shown(*places[-1]) if places else ""


def keep_lines(model: nn.Module, lines: Mapping[str, str]) -> None:
    """Note on a network where its layers are called."""
    setattr(model, NOTE, dict(lines))


def lines_kept(model: nn.Module) -> dict[str, str]:
    """Give what was noted, by layer."""
    return getattr(model, NOTE, {})


def _calling_line() -> str:
    frame: FrameType | None = inspect.currentframe()
    while frame and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return _shown(frame.f_code.co_filename, frame.f_lineno) if frame else ""


def _is_users(file: str) -> bool:
    """Tell the network's code, which may be of a library of networks, from what runs it."""
    path = Path(file)
    if path.is_relative_to(PACKAGE):
        return path.is_relative_to(PACKAGE / "tasks/builtin")
    return not file.startswith("<") and not any(library in path.parts for library in _LIBRARIES)


def _shown(file: str, line: int) -> str:
    _, installed, inside = file.rpartition("site-packages/")
    return f"{inside if installed else Path(file).name}:{line}"

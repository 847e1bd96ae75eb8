"""AIMET's import at a third of its time: what it brings along and the pipeline never calls is left out.

Of 10 s, torch apart, TorchDynamo takes 3 (torchvision asks it one question about GPUs, AIMET marks functions that it
must not compile, and the pipeline compiles none), transformers 2.5, plots by Bokeh 1, Triton's kernels, where there is
no GPU, 0.3. They stay importable, by a task too: only AIMET's own import
meets stand-ins. Whatever is loaded already is used as it is. With versions that this was not checked with,
`running/patches.py` leaves the import as AIMET has it.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bitladder.running.patches import in_force

__all__ = ["learn_types", "without_transformers"]


def _later(module: str, name: str) -> Callable:
    """Give a function that loads the real one when it is called."""
    return lambda *words, **settings: getattr(importlib.import_module(module), name)(*words, **settings)


_PLOTS = "aimet_torch.visualization_tools"

_STAND_INS: dict[str, dict[str, Any] | None] = {  # None: as if it were not installed, which AIMET allows for
    "torch._dynamo": {"OptimizedModule": type("OptimizedModule", (), {})},  # of which no network is one
    "torch._dynamo.utils": {"is_compile_supported": lambda device: False},
    "bokeh": {},
    "bokeh.application": {"Application": None},
    "bokeh.server": {},
    "bokeh.server.server": {"Server": None},
    _PLOTS: {name: _later(_PLOTS, name) for name in ("visualize_stats", "visualize_advanced_stats")},
    "transformers": None,
}


def learn_types(model: nn.Module) -> None:
    """Load AIMET's definitions of transformers' modules, where the network has such modules."""
    if any(type(module).__module__.partition(".")[0] == "transformers" for module in model.modules()):
        importlib.import_module("aimet_torch.nn.transformers.models")


def without_transformers() -> AbstractContextManager[None]:
    """Let AIMET build a sim without asking transformers what its networks are, where none is loaded."""
    return _standing_in(["transformers"]) if in_force("aimet-import") else nullcontext()


@contextmanager
def _without_what_is_not_called() -> Iterator[None]:
    before = torch.compile, torch.compiler.disable
    torch.compile = torch.compiler.disable = _as_it_is  # type: ignore[assignment]
    try:
        with _standing_in(_STAND_INS):
            yield
    finally:
        torch.compile, torch.compiler.disable = before


@contextmanager
def _standing_in(names: Iterable[str]) -> Iterator[None]:
    """Put stand-ins in the place of modules, but of none that is loaded, nor of parts of one that is."""
    loaded = [name for name in names if name in sys.modules]
    absent = [name for name in names if not any(name == one or name.startswith(f"{one}.") for one in loaded)]
    for name in absent:
        values = _STAND_INS[name]
        if values is None:
            sys.modules[name] = None  # type: ignore[assignment]
        else:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__dict__.update(values)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """Stand for a decorator with or without arguments."""
    return _as_it_is if function is None else function


if not torch.cuda.is_available():
    _STAND_INS["triton"] = None  # AIMET's kernels for GPUs

with _without_what_is_not_called() if in_force("aimet-import") else nullcontext():
    import aimet_torch.onnx
    import aimet_torch.v2  # which sims are built with

if in_force("aimet-export"):
    _check = aimet_torch.onnx._check_unsupported_args

    def _check_without_dynamo(*words: Any) -> None:
        """Check what AIMET is asked to export, without loading TorchDynamo to ask whether it compiled the network."""
        with _standing_in(["torch._dynamo"]):
            _check(*words)

    aimet_torch.onnx._check_unsupported_args = _check_without_dynamo

"""Where in the user's model AIMET's preparer gave up, in one line."""

import linecache
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from bitladder.errors import UserError

__all__ = ["untraceable"]

ADVICE = "write it without asking for values (torch.where, fixed sizes)"


def untraceable(model: nn.Module, error: Exception) -> str:
    """Say which line of the user's model cannot be traced, in which module, and what goes round it.

    Args:
        model: as it was given to the preparer.
        error: what the preparer raised.

    """
    if isinstance(error, UserError):
        return str(error)
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    names = {id(module): name for name, module in model.named_modules()}
    place, inside = _place(error, names)
    if not place:
        return f"task: AIMET cannot prepare the model ({reason}); name the module in question under prepare.exclude"
    if not inside:
        return (
            f"task: AIMET cannot prepare the model ({reason}) at {place}; {ADVICE}, or move it into a module of its own"
            " and name that under prepare.exclude in params.yaml"
        )
    return (
        f"task: AIMET cannot prepare the model ({reason}) at {place}, in module {inside!r}; {ADVICE}, or leave the"
        f" module as it is by `prepare: {{exclude: [{inside}]}}` in params.yaml"
    )


def _place(error: Exception, names: dict[int, str]) -> tuple[str, str]:
    """Give `file:line (source)` of the innermost frame in a module's own code, and that module's name."""
    place, inside = "", ""
    trace = error.__traceback__
    while trace:
        frame: FrameType = trace.tb_frame
        owner: Any = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
        if isinstance(owner, nn.Module) and id(owner) in names and frame.f_code.co_name != "__call__":
            file = Path(frame.f_code.co_filename)
            if "torch" not in file.parts:  # torch's own containers and call machinery
                text = linecache.getline(str(file), trace.tb_lineno).strip()
                place, inside = f"{file.name}:{trace.tb_lineno} ({text})", names[id(owner)]
        trace = trace.tb_next
    return place, inside

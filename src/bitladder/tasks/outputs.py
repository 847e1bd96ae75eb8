"""What a network returns, by name."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from bitladder.errors import UserError

__all__ = ["as_returned", "flatten_outputs", "name_outputs"]


def name_outputs(returned: Any, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Name the tensors that a model returned, by their path: see flatten_outputs.

    A network that was made fit for AIMET gives a sequence where the user's gave a dict: `names` are then the dict's.
    Raises UserError for anything but tensors.
    """
    outputs = flatten_outputs(returned)
    for name, value in outputs.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"task: the model must return a tensor, or tensors in tuples, dicts and dataclasses; its {name!r} is of"
                f" type {type(value).__name__}"
            )
    if not outputs:
        raise UserError(f"task: the model must return a tensor; it returned {type(returned).__name__} without one")
    return dict(zip(names, outputs.values(), strict=True)) if names else outputs


def flatten_outputs(returned: Any) -> dict[str, Any]:
    """Give what a model returned by name, None left out.

    A tensor is `output`, a sequence `output_0`, `output_1`, ...; a dict, a dataclass or a named tuple names its own. In
    one another they are joined by `_`. Values need not be tensors: torch.fx has others in their place.
    """
    leaves = list(_leaves(returned, "" if _fields(returned) is not None else "output"))
    names = Counter(name for name, _ in leaves)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"task: the model returns two outputs whose names join to {twice[0]!r}; rename one of them")
    return dict(leaves)


def _leaves(returned: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = _fields(returned)
    if parts is None and isinstance(returned, list | tuple):
        parts = {str(index): value for index, value in enumerate(returned)}
    if parts is None:
        yield from () if returned is None else ((name, returned),)
        return
    for key, value in parts.items():
        yield from _leaves(value, f"{name}_{key}" if name else str(key))


def _fields(returned: Any) -> dict[str, Any] | None:
    """Give the parts of what names its own; None of anything else."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return returned._asdict()
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {one.name: getattr(returned, one.name) for one in dataclasses.fields(returned)}
    return None


def as_returned(outputs: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """Give outputs as a metric or a loss takes them: the tensor itself if it is the only one, else all by name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)

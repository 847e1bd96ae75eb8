"""Hooks on a network's modules, for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle

__all__ = ["hooked"]


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove registered hooks after use."""
    registered = list(hooks)
    try:
        yield
    finally:
        for hook in registered:
            hook.remove()

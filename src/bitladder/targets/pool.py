"""What runs samples on the emulator: processes of this machine (workers.py), or of many (cluster_pool.py)."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # torch's, which processes of the emulator do without
    from bitladder.tasks.samples import Samples

__all__ = ["Pool"]


class Pool(Protocol):
    """Processes that can be given up, each of which does one piece of work at a time."""

    @property
    def workers(self) -> int:
        """How many there are."""
        ...

    def send(self, path: Path) -> Any:
        """Give what stands for a file, with those beside it, among the arguments of work."""
        ...

    def rows(self, samples: "Samples", indices: range) -> Any:
        """Give what stands for a list of the inputs of samples."""
        ...

    def schedule(self, function: Callable[..., Any], args: tuple = (), *, timeout: float | None = None) -> Future:
        """Have a function of an importable module called, and given up after so many seconds."""
        ...

    def stop(self) -> None:
        """Give up all that is still to do."""
        ...

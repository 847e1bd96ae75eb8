"""Samples by their indices, for machines that see the same data: told where the task lies, they read them there."""

from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from bitladder.errors import UserError
from bitladder.running.cluster_worker import NotHereError, Parcel
from bitladder.tasks.samples import Origin, Samples
from bitladder.tasks.splits import find_split
from bitladder.tasks.streamed import Shape, Streamed

__all__ = ["SharedRows", "shared_rows"]

PROBED = 8  # samples that a worker reads first, to see that its data is the same


@dataclass(frozen=True)
class SharedRows(Parcel):
    """Samples of a Dataset by their indices into it.

    `digests` are those of these samples that the stage `data` has read, `probes` those of some others.
    """

    origin: Origin
    count: int
    rows: np.ndarray
    shapes: Mapping[str, Shape]
    digests: Mapping[int, int]
    probes: tuple[tuple[int, int], ...]

    def unpack(self) -> list[dict[str, np.ndarray]]:
        """Read the samples. Raise NotHereError where this machine has no such data, or other data."""
        try:
            with chdir(self.origin.folder):
                split = _open(self.origin, self.count, self.probes)
                own = replace(split, rows=self.rows, shapes=self.shapes, digests=self.digests)
                return [own.row(index) for index in range(len(own))]
        except (UserError, OSError) as error:
            raise NotHereError(str(error)) from None


def shared_rows(samples: Samples, indices: range) -> SharedRows | None:
    """Name samples for another machine; None where it could not find them, or not tell that they are the same."""
    if not isinstance(samples, Streamed) or samples.origin is None or not samples.digests:
        return None
    rows, known = samples.rows[indices.start : indices.stop], list(samples.digests.items())
    digests = {row: samples.digests[row] for row in rows.tolist() if row in samples.digests}
    probes = tuple(known[:: max(1, len(known) // PROBED)][:PROBED])
    return SharedRows(samples.origin, len(samples.dataset), rows, samples.shapes, digests, probes)  # type: ignore[arg-type]


@cache
def _open(origin: Origin, count: int, probes: tuple[tuple[int, int], ...]) -> Streamed:
    """Find the split, and read some samples of it, which must be what the stage `data` read."""
    split = find_split(origin)
    if not isinstance(split, Streamed) or len(split) != count:
        raise NotHereError(f"the {origin.split!r} split has another number of samples")
    rows = np.array([row for row, _ in probes], dtype=np.int64)
    probed = replace(split, rows=rows, digests=dict(probes))
    for index in range(len(probed)):
        probed.row(index)
    return split

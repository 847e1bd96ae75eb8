"""Gates between rungs. Starts without torch.

A gate says only whether to descend below a rung. DVC hashes it, so an upstream edit that does not change the verdict
reruns nothing below.
"""

from bitladder.paths import RungFiles
from bitladder.records import Gate, read_record, write_record

__all__ = ["descends", "write_gate"]


def write_gate(rung: str, descend: bool) -> None:
    """Write gates/<rung>.json."""
    write_record(RungFiles(rung).gate, Gate(descend=descend))


def descends(rung: str) -> bool:
    """Whether the rungs after this one are to be tried."""
    return read_record(Gate, RungFiles(rung).gate).descend

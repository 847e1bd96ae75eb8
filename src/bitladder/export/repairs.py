"""An exported graph put right for the NPU: the rules of htp/ applied to a file."""

from collections.abc import Sequence
from pathlib import Path

import onnx

from bitladder.htp.encodings import update_encodings
from bitladder.htp.repair import repair
from bitladder.records import Repair
from bitladder.running.files import replacing
from bitladder.socs import Soc

__all__ = ["repair_file"]


def repair_file(path: Path, soc: Soc, rules: Sequence[str], encodings: Path | None = None) -> tuple[Repair, ...] | None:
    """Repair a graph for a SoC by the rules of these names; leave the file as it is where none concerns it.

    Args:
        path: of the graph, which is written anew.
        soc: the chip that it is for.
        rules: names of rules.
        encodings: the folder of the float graph with AIMET's encodings, which come to say the same where they can.

    Returns: what was repaired, as records have it; None where nothing was.

    """
    proto, before = onnx.load(path), onnx.load(path)
    found = repair(proto, soc, rules)
    if not found:
        return None
    if encodings is not None:
        update_encodings(encodings, before, proto)
    with replacing(path) as temporary:
        onnx.save(proto, str(temporary))
    return tuple(Repair(rule=one.rule.name, node=one.node, op=one.op) for one in found)

"""What a rung measured on a SoC is kept, and found again as it was."""

import json

import pytest

from bitladder.records import Emulated, Exact, Measurement
from bitladder.targets.profile import MEASURED, _find, _keep
from bitladder.targets.record import memory_of


@pytest.fixture
def kept(tmp_path):
    """Give a record with every kind of value that one holds, kept, and where."""
    emulated = Emulated(samples=8, value=0.9, drop=0.01, gap=0.0)
    exact = Exact(samples=8, float_ops=("Clip /0/Clip",), used=True, reason="all are equal", emulated=emulated)
    record = Measurement(
        backend="hexagon-emulator",
        soc="SM8650",
        samples=64,
        value=0.9,
        drop=0.01,
        memory=memory_of(None, "none told"),
        latency_source="none",
        reason="none",
        exact=exact,
    )
    folder, scores = tmp_path / "target", tmp_path / "scores.safetensors"
    folder.mkdir()
    (folder / "model_ctx.onnx").write_text("compiled")
    scores.write_text("scores")
    _keep(tmp_path / "kept", "key", record, folder, scores)
    return record, tmp_path / "kept/key"


def test_it_is_found_with_its_files(kept, tmp_path):
    record, path = kept
    assert _find(path, tmp_path / "again", tmp_path / "again.safetensors") == record
    assert (tmp_path / "again/model_ctx.onnx").read_text() == "compiled"
    assert (tmp_path / "again.safetensors").read_text() == "scores"


@pytest.mark.parametrize("damage", ["another version's", "another binary"])
def test_what_is_not_as_it_was_is_measured_again(kept, tmp_path, damage):
    _, path = kept
    if damage == "another binary":
        (path / "compiled/model_ctx.onnx").write_text("changed")
    else:
        found = json.loads((path / MEASURED).read_text())
        found["record"]["later"] = 1
        (path / MEASURED).write_text(json.dumps(found))
    assert _find(path, tmp_path / "again", tmp_path / "again.safetensors") is None
    assert not (tmp_path / "again").exists()

"""The bundle's card and provenance name the device, its QAIRT and governor, and who measured."""

import pytest

from bitladder.bundle.card import _figures
from bitladder.bundle.manifest import read_manifest, write_manifest
from bitladder.bundle.ship import _measured
from bitladder.records import Device, Exact, TargetRecord
from records import off, on

BOARD = Device(
    name="QCS6490", runtime="onnxruntime-qnn 2.4.0", qairt="v2.51.0.1", governor="performance", untold="no heat"
)
NOTHING = {
    "reason": "chosen", "precision": None, "technique": None, "recorded": None, "sources": {}, "params": {},
    "task": {}, "data": {}, "versions": {},
}  # fmt: skip
RECORD = "metrics/target/tiny.json"


@pytest.fixture
def manifest(tmp_path):
    """Give the manifest of a rung that a board ran for one SoC, and the emulator, with a proof, for another."""
    exact = Exact(samples=8, used=True, reason="all are equal")
    record = TargetRecord(
        **dict(on("tiny", backend="ssh", soc="QCS6490", device=BOARD)), socs={"SM8650": on("tiny", exact=exact)}
    )
    chip = {"soc_model": 1, "arch": "v68", "context": None, "answers": None, "value": None, "reason": None}
    write_manifest(
        tmp_path,
        NOTHING
        | {
            "rung": "tiny",
            "metrics": {RECORD: record.content()},
            "socs": {"QCS6490": {**chip, "qairt": "v2.40.0.1"}, "SM8650": {**chip, "qairt": "v2.40.0.1"}},
        },
    )
    return read_manifest(tmp_path)


def test_provenance_names_them_for_each_soc(manifest):
    board, emulated = _measured(manifest, "tiny")
    assert board.model_dump() == {
        "soc": "QCS6490", "by": "ssh (QCS6490)", "qairt": "v2.51.0.1", "device": "QCS6490", "governor": "performance",
    }  # fmt: skip
    assert emulated.by == "hexagon-exact (proved on 8 emulated samples)"
    assert (emulated.qairt, emulated.device) == ("v2.40.0.1", None)


def test_the_card_has_what_the_device_told_and_what_not(manifest):
    metrics = {**manifest.metrics, "metrics/eval/tiny.json": off("tiny", device="cpu").content()}
    text = "\n".join(_figures({"metrics": metrics, "sources": {}, "params": {"goals": {}}}))
    assert text.count("| device: ") == len(Device.model_fields)
    assert f"| device: governor | performance | {RECORD} |" in text
    assert f"| device: celsius_before | not told | {RECORD} |" in text
    assert f"| device: untold | no heat | {RECORD} |" in text

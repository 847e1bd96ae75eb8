"""The pass over samples: what adds up over batches is what the whole gives, and a killed pass goes on."""

import pytest
import torch
from torch import nn

from bitladder.network import scoring
from bitladder.network.evaluate import compare
from bitladder.network.outputs import StoredOutputs
from bitladder.network.scoring import save_score, score, store
from bitladder.statistics.scores import NETWORK, read_scores
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Split

torch.manual_seed(0)
SPLIT = Split({"x": torch.randn(50, 4)}, torch.arange(50) % 3)
MODEL, FP32 = nn.Linear(4, 3), nn.Linear(4, 3)
METRIC = Metric("accuracy", lambda outputs, targets: (outputs.argmax(1) == targets).double())


def whole(model):
    with torch.no_grad():
        return {"output": model(SPLIT.inputs["x"])}


def test_batches_give_what_the_whole_gives(tmp_path):
    found = score(MODEL, SPLIT, METRIC, 8, "", FP32, StoredOutputs(tmp_path / "outputs"))
    expected = compare(METRIC, whole(MODEL), whole(FP32), SPLIT.targets)
    assert found.comparison.sqnr_db == pytest.approx(expected.sqnr_db)
    assert (found.comparison.value, found.comparison.drop) == (expected.value, expected.drop)
    assert (found.comparison.agreement, found.comparison.samples) == (expected.agreement, 50)
    assert found.reference_value == METRIC(whole(FP32), SPLIT.targets)
    assert found.scores.values.tolist() == METRIC.compute(whole(MODEL)["output"], SPLIT.targets).tolist()
    stored = StoredOutputs(tmp_path / "outputs")
    assert torch.allclose(stored.whole()["output"], whole(MODEL)["output"])
    against = score(MODEL, SPLIT, METRIC, 8, "", store(FP32, SPLIT, 8, tmp_path / "fp32"))
    assert against.comparison == found.comparison
    save_score(tmp_path / "score.safetensors", found)
    kept = read_scores(tmp_path / "score.safetensors")
    assert kept[NETWORK].values.tolist() == found.scores.values.tolist()
    assert (kept[NETWORK].total, kept["fp32"].total) == (found.comparison.value, found.reference_value)


def test_a_killed_pass_goes_on_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("bitladder.network.outputs.CHUNK_BYTES", 12 * 11)
    expected = score(MODEL, SPLIT, METRIC, 8, "t", FP32, StoredOutputs(tmp_path / "whole"))
    seen = []

    class Killed(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            if len(seen) == 4:
                raise KeyboardInterrupt
            return MODEL(x)

    with pytest.raises(KeyboardInterrupt):
        score(Killed(), SPLIT, METRIC, 8, "t", FP32, StoredOutputs(tmp_path / "part"), tmp_path)
    again = score(Killed(), SPLIT, METRIC, 8, "t", FP32, StoredOutputs(tmp_path / "part"), tmp_path)
    assert sum(seen) == 50 + 8  # the batch that was killed, and no other, ran twice
    assert again.comparison == expected.comparison
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "part")]
    assert files[0] == files[1]
    assert len(files[0]) == 5


def test_parts_of_stored_outputs_cross_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("bitladder.network.outputs.CHUNK_BYTES", 4 * 7)
    stored, values = StoredOutputs(tmp_path), torch.arange(40.0)
    for part in values.split(9):
        stored.append({"y": part})
    stored.flush()
    assert len(StoredOutputs(tmp_path)) == 40
    for start, stop in ((0, 40), (3, 5), (6, 22), (39, 40)):
        assert torch.equal(StoredOutputs(tmp_path).read(start, stop)["y"], values[start:stop])

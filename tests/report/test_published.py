"""The plot of latency against MACs: what it shows of which device and precision, and when it is left out."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitladder.latency.table import published_measurements
from bitladder.params import load_params
from bitladder.report import page
from records import with_goals, write_latencies, write_project

MS = {"fp16": 0.5, "compact": 0.4}
DEVICE = "Samsung Galaxy S24"  # whose chip is write_project's target.soc


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Metrics with two rungs whose latency is estimated, and two without."""
    write_project(tmp_path)
    write_latencies(tmp_path, MS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(monkeypatch: pytest.MonkeyPatch, params: Any) -> tuple[list[dict[str, Any]], str]:
    """Render the page; give all points of the plot, none where it is left out, and the text of the page."""
    drawn: dict[str, Any] = {}
    made = page.beside_published

    def spy(*arguments: Any) -> Any:
        specs, note = made(*arguments)
        drawn.update(specs)
        return specs, note

    monkeypatch.setattr(page, "beside_published", spy)
    text = re.sub(r"<[^>]*>", " ", page.render(params).split("<script>")[0])
    layers = drawn["latency"]["layer"] if drawn else []
    return [point for layer in layers for point in layer["data"]["values"]], text


def test_rungs_stand_beside_networks_of_their_device_and_precision(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, text = shown(monkeypatch, load_params())
    rungs = {point["rung"]: point for point in points if "rung" in point}
    assert {name: row["latency_ms"] for name, row in rungs.items()} == MS
    assert rungs["compact"]["latency_low_ms"] < 0.4 < rungs["compact"]["latency_high_ms"]
    assert rungs["compact"]["gmacs"] == pytest.approx(3 * 3 * 3 * 64 * 32 * 32 / 1e9)
    networks = [(p["network"], p["precision"], p["latency_ms"]) for p in points if "network" in p]
    known = {(m.graph, m.precision.upper(), m.latency_ms) for m in published_measurements() if m.device == DEVICE}
    assert len(networks) > 50
    assert {precision for _, precision, _ in networks} == {"FP16", "W8A8"}
    assert set(networks) <= known
    assert "0.267 to 0.600" in text
    assert DEVICE in text
    assert "so not drawn: balanced, tiny" in text


def test_it_is_left_out_with_the_reason_where_the_device_has_no_data(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, text = shown(monkeypatch, with_goals(soc="SM8350"))
    assert points == []
    assert "Left out: no latencies are published of SM8350." in text


def test_it_is_left_out_with_the_reason_where_no_rung_has_a_latency(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(project / "metrics")
    write_project(project)
    points, text = shown(monkeypatch, load_params())
    assert points == []
    assert "Left out: no rung has a latency on SM8650." in text


def test_it_is_left_out_with_the_reason_where_no_graph_is_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(project / "build")
    points, text = shown(monkeypatch, load_params())
    assert points == []
    assert "run `dvc pull`" in text

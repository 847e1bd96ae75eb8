"""The report as people open it: in Chromium, at desktop and phone width, in light and dark."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from bitladder.errors import UserError
from bitladder.params import load_params
from bitladder.report.page import render
from records import write_latencies, write_project

ROOT = Path(__file__).parents[2]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

QAT = "epoch,train_loss,value,loss\n0,,0.95,0.2\n1,0.1,0.97,0.15\n2,0.08,0.975,0.14\n"

LAYERS = (
    "layer,kind,sqnr_db,weights_bits,weight_min,weight_max,outputs_bits,output_min,output_max\n"
    "0,Conv2d,{sqnr},8,-2.1,2.0,,,\n1,ReLU,30.5,,,,8,0.0,3.8\nfc,Linear,28.5,8,-0.9,1.2,8,-5.0,5.4\n"
)


SENSITIVITY = (
    "layer,kind,what,bits,sqnr_db,value,drop\n0,Conv2d,weight,4,18.2,0.97,0.02\n0,Conv2d,activation,8,35.5,0.98,0.0\n"
    "fc,Linear,weight,4,29.5,0.98,0.001\nfc,Linear,activation,8,41.0,0.98,0.0\n"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Metrics with every kind of plot to draw."""
    write_project(tmp_path, ["QCS6490", "SM8750"])
    (tmp_path / "metrics/qat").mkdir()
    (tmp_path / "metrics/qat/tiny.csv").write_text(QAT)
    for rung, sqnr in (("balanced", 45), ("compact", 31), ("tiny", 14)):
        (tmp_path / f"metrics/export/{rung}.csv").write_text(LAYERS.format(sqnr=sqnr))
    (tmp_path / "metrics/sensitivity.csv").write_text(SENSITIVITY)
    write_latencies(tmp_path, {"fp16": 0.5, "balanced": 0.8, "compact": 0.4})
    encodings = tmp_path / "build/export/tiny/encodings.json"
    encodings.parent.mkdir(parents=True)
    weights = {f"{layer}.param_quantizers.weight": {"bw": 4, "scale": [0.1, 0.2, 0.3]} for layer in ("0", "fc")}
    encodings.write_text(json.dumps(weights))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def opened(browser: Browser, page: str, folder: Path, width: int, scheme: Any) -> tuple[Any, list[str], list[str]]:
    """Open a page and wait until it has drawn; give it with what its console said and what it asked for."""
    path = folder / "page.html"
    path.write_text(page, "utf-8")
    said: list[str] = []
    asked: list[str] = []
    tab = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-drawn]", timeout=60_000)
    return tab, said, [url for url in asked if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "light"), (1200, "dark"), (390, "dark")])
def test_all_plots_are_drawn_without_a_word_and_without_the_network(
    project: Path, chromium: Browser, width: int, scheme: str
) -> None:
    tab, said, asked = opened(chromium, render(load_params()), project, width, scheme)
    assert said == []
    assert asked == []
    marks = tab.evaluate("[...document.querySelectorAll('.plot')].map(p => [p.id, p.querySelectorAll('path').length])")
    assert {name for name, count in marks if count > 2} == {
        "pareto", "gap", "socs", "latency", "qat", "sqnr", "sensitivity", "range_weight", "range_output", "channels",
    }  # fmt: skip
    # Nothing is wider than the screen: on a phone only the table scrolls, in its own box
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    assert dark is (scheme == "dark")


def test_choosing_a_layer_redraws_its_ranges(project: Path, chromium: Browser) -> None:
    tab, said, _ = opened(chromium, render(load_params()), project, 1200, "light")
    before = tab.inner_html("#range_weight")
    tab.select_option("#layer", "fc")
    tab.wait_for_function("html => document.querySelector('#range_weight').innerHTML != html", arg=before)
    assert said == []


def test_a_name_from_the_task_cannot_break_out_of_the_script(project: Path, chromium: Browser) -> None:
    table = project / "metrics/export/tiny.csv"
    table.write_text(table.read_text().replace("fc,", "</script><b id=broken>,"))
    tab, said, _ = opened(chromium, render(load_params()), project, 1200, "light")
    assert said == []
    assert tab.query_selector("#broken") is None


def test_without_the_cache_the_page_says_what_it_lacks(project: Path) -> None:
    shutil.rmtree(project / "build")
    assert "build/export/tiny, which is not here: run `dvc pull`" in render(load_params()).replace("&#39;", "'")


def test_a_damaged_lock_is_one_line(project: Path) -> None:
    (project / "dvc.lock").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.lock: damaged"):
        render(load_params())


def test_the_page_starts_without_torch() -> None:
    code = "import sys, bitladder.report.page; sys.exit(any(n in sys.modules for n in ('torch', 'aimet_torch')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0

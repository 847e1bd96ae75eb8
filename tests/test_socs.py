"""SoCs by the names people use."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.errors import UserError
from bitladder.latency.estimate import devices
from bitladder.params import load_params
from bitladder.socs import Soc, all_socs, find_soc, normalised


@pytest.mark.parametrize("name", ["SM8650", "sm8650", "snapdragon-8-gen-3", "Snapdragon 8 Gen 3", "galaxy_s24"])
def test_a_soc_goes_by_many_names(name):
    assert find_soc(name).name == "SM8650"


def test_an_unknown_soc_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'exynos' is not a known SoC; use one of .*SM8650"):
        find_soc("exynos")


def test_no_name_stands_for_two():
    names = [normalised(name) for soc in all_socs().values() for name in (soc.name, *soc.aliases)]
    assert len(names) == len(set(names))


def test_devices_are_published_ones():
    assert {soc.device for soc in all_socs().values() if soc.device} <= set(devices())


def test_a_new_sibling_changes_what_results_may_depend_on_only_where_estimates_are_borrowed(monkeypatch):
    borrows, owns = find_soc("SM8350"), find_soc("SA8295")
    before = borrows.facts(), owns.facts()
    assert before[0]["siblings"] == ["Dragonwing RB3 Gen 2 Vision Kit", "SA8295P ADP"]
    more = all_socs() | {"SX1": Soc("SX1", 1, "v68", ("W8A8",), device="A new board")}
    monkeypatch.setattr("bitladder.socs.all_socs", lambda: more)
    assert "A new board" in borrows.facts()["siblings"]
    assert owns.facts() == before[1]


def test_an_alias_in_params_and_a_rung_that_it_refuses(tmp_path):
    text = Path("params.yaml").read_text().replace("soc: SM8650", "soc: snapdragon-7-gen-4")
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").soc.name == "SM7750"
    (tmp_path / "params.yaml").write_text(text.replace("{weights: 4, activations: 8", "{weights: 2, activations: 8"))
    with pytest.raises(UserError, match="does not take W2A8"):
        load_params(tmp_path / "params.yaml")


def test_socs_are_listed():
    shown = CliRunner().invoke(app, ["socs"]).stdout
    for soc in all_socs().values():
        assert soc.name in shown

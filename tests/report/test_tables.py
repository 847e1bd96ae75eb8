"""The tables for people."""

from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.report.tables import float_cell
from support import ROOT


def test_the_guide_shows_what_show_prints(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = CliRunner().invoke(app, ["show"]).stdout.splitlines()
    table = "\n".join(line for line in shown if line.startswith("|"))
    decision = [line.strip() for line in shown if line and not line.startswith("|")]
    guide = (ROOT / "docs/guides/decision.md").read_text("utf-8")
    assert "| rung" in table and table in guide
    assert decision and not [line for line in decision if line not in guide]


def test_what_is_float_is_said_in_ops_and_in_part_of_the_weights():
    assert float_cell({"float_ops": 3, "float_weights": 0.312}) == "3 ops, 31% of weights"
    assert float_cell({"float_ops": 1, "float_weights": 0.0}) == "1 op, 0% of weights"
    assert float_cell({"float_ops": 0, "float_weights": 0.0}) == "nothing"
    assert float_cell({"float_ops": None, "float_weights": None}) == "-"

"""The tables for people."""

from typer.testing import CliRunner

from bitladder.commands.cli import app
from support import ROOT


def test_the_guide_shows_what_show_prints(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = CliRunner().invoke(app, ["show"]).stdout.splitlines()
    table = "\n".join(line for line in shown if line.startswith("|"))
    decision = [line.strip() for line in shown if line and not line.startswith("|")]
    guide = (ROOT / "docs/guides/decision.md").read_text("utf-8")
    assert "| rung" in table and table in guide
    assert decision and not [line for line in decision if line not in guide]

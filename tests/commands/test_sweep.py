"""The guide over DVC's experiments: what it refuses, and how the outcomes read."""

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.commands.sweep import Outcome, format_outcomes


def test_outcomes_are_ordered_by_size_and_those_without_a_rung_come_last() -> None:
    outcomes = [
        Outcome("big", ("8",), "tiny (W8A8)", 0.98, 2000, None),
        Outcome("none", ("2",), "none", None, None, None),
        Outcome("small", ("4",), "tiny (W4A8)", 0.97, 1000, 1.25),
    ]
    header, _, *rows = format_outcomes(outcomes, ["ladder.tiny.weights=4,8"]).splitlines()
    assert [word.strip() for word in header.strip("|").split("|")] == [
        "experiment", "ladder.tiny.weights", "chosen", "on target", "bytes", "latency ms",
    ]  # fmt: skip
    assert [row.split("|")[1].strip() for row in rows] == ["small", "big", "none"]
    assert "1.250" in rows[0]


def test_a_word_that_sets_nothing_is_refused() -> None:
    done = CliRunner().invoke(app, ["sweep", "ladder.tiny.weights"])
    assert done.exit_code == 1
    assert "ladder.tiny.weights: expected key=value,value" in done.output


def test_outside_of_a_dvc_project_it_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    done = CliRunner().invoke(app, ["sweep", "seed=0,1"])
    assert done.exit_code == 1
    assert "no DVC project in this folder" in done.output


@pytest.mark.parametrize("scm", [(), ("--no-scm",)])
def test_without_a_commit_or_without_git_it_says_so_in_one_line(tmp_path: Path, monkeypatch, scm) -> None:
    monkeypatch.chdir(tmp_path)
    if not scm:
        subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["dvc", "init", "-q", *scm], check=True)
    done = CliRunner().invoke(app, ["sweep", "seed=0,1"])
    assert done.exit_code == 1
    assert "DVC's experiments need a git repository with a commit in it" in done.output

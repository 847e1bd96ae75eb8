"""Whether a rung's metric changed or may have by chance: sample by sample, and from two intervals alone."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.report.change import APART, PAIRED, change_of, is_within_noise
from bitladder.report.diff import diff, format_diff, lost
from bitladder.report.revisions import read_revision
from bitladder.statistics.scores import NETWORK, Scores, save_scores
from records import write_project
from report_repository import edit_json, git

OUT = "build/qat/tiny/scores.safetensors"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository whose metrics are those of 1,000 samples, and a DVC cache."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    git("init", "-q", "-b", "main")
    Path(".gitignore").write_text("build/\n.dvc/\n")
    write_scores(range(104))
    git("add", "-A")
    git("commit", "-qm", "main")
    return tmp_path


def write_scores(wrong: Any, data: str = "0" * 32, target: Any = range(104)) -> None:
    """Write tiny's scores off and on target, and a dvc.lock that has them and the data."""
    folder = Path("build/target/tiny")
    save(Path(OUT), wrong)
    save(folder / "SM8650.safetensors", target)
    listing = f'[{{"md5": "{cached(folder / "SM8650.safetensors")}", "relpath": "SM8650.safetensors"}}]'
    Path("listing").write_text(listing)
    outs = {
        OUT: cached(Path(OUT)),
        "build/data/evaluation.safetensors": data,
        "build/target/tiny": cached(Path("listing")),
    }
    lines = "".join(f"\n    - {{path: {path}, md5: {digest}, size: 1}}" for path, digest in outs.items())
    Path("dvc.lock").write_text(f"schema: '2.0'\nstages:\n  all:\n    cmd: x\n    outs:{lines}\n")
    Path("listing").unlink()


def save(path: Path, wrong: Any) -> None:
    values = np.ones(1000)
    values[list(wrong)] = 0
    save_scores(path, {NETWORK: Scores(1000, float(values.mean()), values)})


def cached(path: Path) -> str:
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    kept = Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, kept)
    return digest


def change(where: str = "off target") -> Any:
    return change_of(read_revision("main"), read_revision(None), "tiny", where)


@pytest.mark.parametrize(
    ("wrong", "kind", "loss"),
    [
        (range(104), "unchanged", 0.0),
        (range(106), "within noise", 0.002),
        (range(130), "worse", 0.026),
        (range(80), "improved", -0.024),
    ],
)
def test_the_same_samples_are_compared_one_by_one(repository: Path, wrong: Any, kind: str, loss: float) -> None:
    write_scores(wrong)
    found = change()
    assert (found.kind, found.loss, found.method) == (kind, pytest.approx(loss), PAIRED)
    assert found.low <= found.loss <= found.high


def test_on_target_a_soc_has_its_file_in_a_folder_of_dvc(repository: Path) -> None:
    write_scores(range(104), target=range(150))
    assert change().kind == "unchanged" and change("on target").kind == "worse"
    git("commit", "-qam", "worse there")
    shutil.rmtree("build")  # both sides from the cache
    assert change_of(read_revision("main~1"), read_revision("main"), "tiny", "on target").method == PAIRED


@pytest.mark.parametrize("gone", [True, False])
def test_other_samples_or_no_cache_leave_the_intervals_of_both_drops(repository: Path, gone: bool) -> None:
    write_scores(range(130), data="0" * 32 if gone else "1" * 32)
    if gone:
        shutil.rmtree(".dvc/cache")
    for drop, kind in ((0.004, "unchanged"), (0.009, "within noise"), (0.06, "worse"), (-0.03, "improved")):
        ends = {"drop": drop, "drop_low": drop - 0.004, "drop_high": drop + 0.006}
        if drop != 0.004:
            edit_json("metrics/decision.json", lambda record, ends=ends: record["trail"][-1]["measured"].update(ends))
        found = change()
        assert (found.kind, found.method) == (kind, APART)


def missed(verdict: str) -> None:
    """Have tiny miss its goal as the work tree has it."""

    def miss(record: dict[str, Any]) -> None:
        record["chosen"], record["reason"], entry = "compact", "compact is it", record["trail"][-1]
        entry["misses"] = ["drop off target 0.006 over goals.max_drop 0.005"]
        for one in entry["verdicts"][:2]:
            one["verdict"] = verdict

    edit_json("metrics/decision.json", miss)


def test_check_does_not_fail_for_what_may_be_chance_and_says_so(repository: Path) -> None:
    write_scores(range(106))
    missed("undecided")
    assert is_within_noise(read_revision("main"), read_revision(None), "tiny")
    done = CliRunner().invoke(app, ["diff", "main", "--check"])
    assert done.exit_code == 0 and "Within noise: tiny misses goals, and may do so by chance: drop off" in done.output
    table = format_diff(diff(read_revision("main"), read_revision(None)), "markdown")
    assert "| tiny   | off target | within noise | +0.0020 |" in table


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(range(130), "undecided"), (range(106), "fails"), (range(104), "undecided")]
)
def test_check_fails_where_it_is_worse_or_the_goal_fails_or_is_another(
    repository: Path, wrong: Any, verdict: str
) -> None:
    """The last: nothing changed but the goal."""
    write_scores(wrong)
    missed(verdict)
    assert lost(read_revision("main"), read_revision(None)).startswith(
        "tiny, chosen at main, no longer meets the goals"
    )
    assert CliRunner().invoke(app, ["diff", "main", "--check"]).exit_code == 1


def test_check_fails_where_undecided_goals_are_refused(repository: Path) -> None:
    write_scores(range(106))
    missed("undecided")
    edit_json("metrics/decision.json", lambda record: record["trail"][-1]["goals"].update(undecided="refuse"))
    assert lost(read_revision("main"), read_revision(None))

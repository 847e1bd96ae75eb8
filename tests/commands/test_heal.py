"""`bitladder heal`, on a dvc.lock that DVC was killed over; damaged objects are in tests/pipeline/test_ship.py."""

import subprocess

import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.commands.heal import heal
from bitladder.errors import UserError
from bitladder.paths import KEPT_LOCK, LOCK
from bitladder.running.files import locked_stages
from support import ROOT


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Give the text of a whole dvc.lock, in a folder of its own where a stage has kept a copy."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["dvc", "init", "--quiet"], check=True)
    text = (ROOT / "dvc.lock").read_text("utf-8")
    KEPT_LOCK.parent.mkdir(parents=True)
    KEPT_LOCK.write_text(text, "utf-8")
    return text


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
@pytest.mark.parametrize("ends", ["path: ", "md5: ", "  - ", "\n"])
def test_a_lock_cut_anywhere_is_put_back_or_is_whole(lock, share, ends):
    cut = lock.find(ends, int(len(lock) * share)) + len(ends)
    LOCK.write_text(lock[:cut], "utf-8")
    checked = CliRunner().invoke(app, ["check", "--params", str(ROOT / "params.yaml")])
    healed = heal()
    if healed:
        assert "dvc.lock: damaged, as DVC leaves it when it is killed; run `bitladder heal`" in checked.output
        assert healed == ["dvc.lock: damaged; put back as it was when the last stage began"]
        assert LOCK.read_text("utf-8") == lock
    else:
        assert checked.exit_code == 0
        # cut between two items: DVC runs what is missing again, or takes it from its run cache
        assert set(locked_stages()) < set(locked_stages(KEPT_LOCK)) or lock.startswith(LOCK.read_text("utf-8"))


def test_a_damaged_lock_without_a_copy_is_a_line_that_says_where_another_is(lock):
    KEPT_LOCK.unlink()
    LOCK.write_text(lock[:5000] + "\n  {", "utf-8")
    with pytest.raises(UserError, match=r"dvc\.lock: damaged, and no copy is left; take git's"):
        heal()


def test_the_lock_alone_is_healed_with_a_line_and_is_passed_over_in_silence(lock):
    LOCK.write_text(lock[:5000] + "\n  {", "utf-8")
    (first, second) = (CliRunner().invoke(app, ["heal", "--lock"]) for _ in range(2))
    assert (first.exit_code, first.output) == (0, "dvc.lock: damaged; put back as it was when the last stage began\n")
    assert (second.exit_code, second.output) == (0, "")
    assert LOCK.read_text("utf-8") == lock

"""Without git: what needs it says so in a line, what only names the revision goes without."""

import pytest

from bitladder.commands.init import init
from bitladder.commands.reproduce import reproduce
from bitladder.errors import UserError
from bitladder.report.revisions import read_revision
from bitladder.running.git import ask_git, run_git, state


@pytest.fixture
def gitless(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        lambda folder: init(folder / "mine"),
        lambda folder: read_revision("HEAD"),
        lambda folder: reproduce("HEAD", False, False, print),
        lambda folder: run_git("status"),
    ],
)
def test_what_needs_git_says_so(gitless, command):
    with pytest.raises(UserError, match="git is not installed"):
        command(gitless)


def test_what_only_names_the_revision_goes_without(gitless):
    assert state() == (None, 0)


def test_outside_of_a_repository_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert state() == (None, 0)
    assert ask_git("rev-parse", "HEAD") is None
    with pytest.raises(UserError, match=r"git rev-parse: fatal: not a git repository"):
        run_git("rev-parse", "HEAD")

"""git, asked about this folder. The one place that runs it."""

import subprocess
from pathlib import Path

from bitladder.errors import UserError

__all__ = ["ask_git", "run_git", "state"]


def ask_git(*words: str, folder: Path = Path()) -> str | None:
    """Give what git prints, as it is; None where it fails. Raise UserError where it is not installed."""
    done = _run(words, folder)
    return done.stdout if done.returncode == 0 else None


def run_git(*words: str, folder: Path = Path()) -> str:
    """Give what git prints, without the white space around it. Raise UserError where it fails or is not installed."""
    done = _run(words, folder)
    if done.returncode:
        raise UserError(f"git {words[0]}: {' '.join(done.stderr.split())[:300]}")
    return done.stdout.strip()


def state() -> tuple[str | None, int]:
    """Give the commit and how many files differ from it; None and 0 outside of git, and without it."""
    try:
        revision, changed = ask_git("rev-parse", "HEAD"), ask_git("status", "--porcelain")
    except UserError:
        return None, 0
    return (revision or "").strip() or None, len((changed or "").splitlines())


def _run(words: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
        )
    except FileNotFoundError:
        raise UserError("git is not installed, and revisions are read from it") from None

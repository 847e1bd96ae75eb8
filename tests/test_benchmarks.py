"""Benchmarks are run by hand; that each still starts, and says what it does, is held here."""

import os
import subprocess
import sys

import pytest

from support import ROOT

SCRIPTS = [path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text("utf-8")]


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_benchmark_starts_and_is_described(script):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--help"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert f"python benchmarks/{script}" in (ROOT / "docs/benchmarks.md").read_text("utf-8")

"""Benchmarks are run by hand; that each still starts, and says what it does, is held here."""

import ast
import importlib
import os
import subprocess
import sys

import pytest

from support import ROOT

FOLDERS = ("benchmarks", "ci", "examples")

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


@pytest.mark.parametrize("script", sorted(path for one in FOLDERS for path in (ROOT / one).rglob("*.py")), ids=str)
def test_what_a_script_imports_of_the_package_is_there(script):
    """Most imports come late, after threads are pinned, where --help does not get to."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bitladder":
            module = importlib.import_module(node.module)
            for one in node.names:
                if not hasattr(module, one.name):
                    importlib.import_module(f"{node.module}.{one.name}")

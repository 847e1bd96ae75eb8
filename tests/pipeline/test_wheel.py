"""A wheel built from this tree, installed where the tree is not: what `init` writes there runs, data files included."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from clones import ONE_RUNG, Clone, make_clone

pytestmark = pytest.mark.slow


class Installed(Clone):
    """A repository beside an environment that has the wheel, and from this one all other packages."""

    @property
    def bin(self) -> Path:
        return self.root.parent / "venv/bin"

    def run(self, *words, **env):
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return super().run(*words, **{"PATH": path, "PYTHONPATH": "", **env})


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    made, tree, dist = Installed(folder / "own"), folder / "tree", folder / "dist"
    tree.mkdir()
    make_clone(tree, {})
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", dist, tree)
    _run(sys.executable, "-m", "venv", made.bin.parent)
    _run(made.bin / "pip", "install", "--quiet", "--no-deps", "--no-index", "--find-links", dist, "bitladder")
    packages = Path(_run(made.bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # All that bitladder needs, as locked; its editable install there is not found this way
    (packages / "zz_locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (made.bin / "dvc").write_text(f"#!{made.bin}/python\nimport sys\nfrom dvc.cli import main\n\nsys.exit(main())\n")
    (made.bin / "dvc").chmod(0o755)
    made.root.mkdir()
    assert made.run("bitladder", "init", ".").returncode == 0
    made.edit(ONE_RUNG)
    return made


def _run(*words) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheels_own_code_is_what_runs(installed):
    done = installed.run("python", "-c", "import bitladder; print(bitladder.__file__)")
    assert done.stdout.startswith(str(installed.bin.parent)), done.stdout + done.stderr


def test_a_pipeline_is_checked_and_runs_to_its_decision(installed):
    done = installed.run("bitladder", "check", "--task")
    assert done.returncode == 0 and "all on the NPU" in done.stdout, done.stdout + done.stderr
    done = installed.repro()
    assert done.code == 0, done.text[-2000:]
    assert (installed.root / "reports/index.html").stat().st_size > 100_000
    assert (installed.root / "build/installed").resolve() == next(
        (installed.root.parent / "venv").rglob("site-packages/bitladder")
    )
    assert "<- chosen" in installed.run("bitladder", "show").stdout
    assert installed.repro().ran == set()
    listed = installed.run("bitladder", "latency", "--fit-report").stdout
    assert "w8a16" in listed

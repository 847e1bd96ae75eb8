"""A user's own repository, from version 0.1.0's pipeline on: upgraded, run, and the installed bitladder edited.

The package stands in a folder of its own on Python's path, as an editable install puts it there.
"""

import io
import json
import shutil
import subprocess
import tarfile

import pytest

from clones import ONE_RUNG, Clone
from support import ROOT

pytestmark = pytest.mark.slow

RELEASED = "3085de745b68080dc0ce54eb79001f42649197ad"
"""The last commit of version 0.1.0."""


class Repository(Clone):
    """A user's repository, whose commands import bitladder from a folder beside it."""

    @property
    def source(self):
        return self.root.parent / "package"

    def install(self, src) -> None:
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(src / "bitladder", self.source / "bitladder", ignore=shutil.ignore_patterns("__pycache__"))

    def run(self, *words, **env):
        return super().run(*words, **{"PYTHONPATH": str(self.source), **env})


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Give a repository that 0.1.0 has made and run, with the bitladder of today installed."""
    folder = tmp_path_factory.mktemp("user")
    words = ["git", "archive", RELEASED, "src", "params.yaml", "dvc.yaml", "stages"]
    archive = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("the history of this clone does not reach back to version 0.1.0")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as old:
        old.extractall(folder / "released", filter="data")
    made = Repository(folder / "own")
    made.root.mkdir()
    made.install(folder / "released/src")
    done = made.run("python", "-c", "from pathlib import Path; from bitladder.scaffold import init; init(Path())")
    assert done.returncode == 0, done.stderr
    made.edit(ONE_RUNG)
    done = made.repro()
    assert done.code == 0, done.text[-2000:]
    assert json.loads((made.root / "metrics/decision.json").read_text())["trail"][0]["asked"]
    for words in (
        ("add", "--all"),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "0.1"),
    ):
        assert made.run("git", *words).returncode == 0
    made.install(ROOT / "src")
    return made


def edit(repository, name: str) -> set[str]:
    """Change a file of the installed package; give the stages that `dvc repro` then runs."""
    path = repository.source / "bitladder" / name
    marks = {".py": "\n# edited\n", ".html": "\n<!-- edited -->\n", ".csv": "\n", ".yaml": "\n# edited\n"}
    path.write_text(path.read_text("utf-8") + marks[path.suffix], "utf-8")
    done = repository.repro()
    assert done.code == 0, done.text[-2000:]
    return done.ran


def test_a_pipeline_of_another_version_is_not_run_and_says_what_to_do(repository):
    done = repository.run("bitladder", "check")
    assert done.returncode == 1 and "written for version 0.1.0+" in done.stderr and "`bitladder upgrade`" in done.stderr
    done = repository.run("bitladder", "reproduce", "HEAD")
    assert done.returncode == 1 and "install version 0.1.0 and run this again" in done.stderr


def test_after_an_upgrade_it_runs(repository):
    """Its figures are not those of before: 0.2.0 shuffles the splits."""
    done = repository.run("bitladder", "upgrade")
    assert done.returncode == 0 and "+++ dvc.yaml" in done.stdout and "Next: `dvc repro`" in done.stdout
    done = repository.repro()
    assert done.code == 0, done.text[-2000:]
    record = json.loads((repository.root / "metrics/eval/tiny.json").read_text())
    assert record["schema"] == 3 and record["sqnr_db"] > 10
    assert not (repository.root / "metrics/socs").exists()
    shown = repository.run("bitladder", "diff", "HEAD")  # which reads both versions' files
    assert shown.returncode == 0 and "Decision: tiny, as before" in shown.stdout
    assert repository.repro().ran == set()
    assert "up to date" in repository.run("dvc", "status").stdout


SUMMARY = {"compare", "bundle", "report", "track"}

BELOW_PTQ = {"qat@tiny", "export@tiny", "profile@tiny", "judge@tiny", *SUMMARY}


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [
        ("report/page.html", {"report"}, set()),
        ("latency/data/published_latency.csv", {"profile@tiny", "profile-fp16", "report"}, set()),
        ("quantize/techniques/gptq.py", {"ptq@tiny"}, BELOW_PTQ),
        ("commands/cli.py", set(), set()),
        ("socs.yaml", set(), set()),
    ],
)
def test_an_edit_of_the_installed_package_reruns_what_it_matters_to(repository, name, first, others):
    """What these give is as before, so that nothing below it runs; of what runs below a change no stage is above it."""
    ran = edit(repository, name)
    assert {"sources"} | first <= ran <= {"sources"} | first | others
    assert repository.repro().ran == set()


def test_an_edit_that_changes_what_a_stage_gives_reruns_what_reads_it(repository):
    path = repository.source / "bitladder/quantize/techniques/min_max.py"
    text = path.read_text("utf-8")
    path.write_text(text.replace('"min-max", ("min-max",)', '"sqnr", ("min-max",)'), "utf-8")
    assert path.read_text("utf-8") != text
    ran = repository.repro().ran
    below = {f"{stage}@tiny" for stage in ("ptq", "qat", "export", "profile", "judge")}
    assert below <= ran <= below | SUMMARY | {"sources"}

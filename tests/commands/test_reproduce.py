"""`bitladder reproduce` on a pipeline of DVC's that has no network in it, so that a run takes seconds."""

import subprocess
import sys

import pytest

from bitladder.commands.reproduce import Difference, compare_locks, only_contexts, other_versions, reproduce
from bitladder.errors import UserError
from support import ROOT

STAGES = """stages:
  data: {cmd: python make.py data data.json, deps: [make.py], outs: [build/data.json]}
  train: {cmd: python make.py train train.json, deps: [make.py, build/data.json], outs: [build/train.json]}
  export: {cmd: python make.py export, deps: [build/train.json], outs: [metrics/export.json: {cache: false}]}
"""

MAKE = """import json, os, pathlib, sys
name = sys.argv[1]
path = pathlib.Path("metrics/export.json" if name == "export" else f"build/{name}.json")
path.parent.mkdir(exist_ok=True)
text = pathlib.Path("build/train.json").read_text() if name == "export" else name
if name == os.environ.get("UNLIKE"):
    text = os.urandom(4).hex()
path.write_text(json.dumps({"value": text}))
pathlib.Path(os.environ["RAN"]).open("a").write(name + " ")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    (folder / "make.py").write_text(MAKE)
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "params.yaml").write_text("seed: 0\n")
    (folder / ".gitignore").write_text("/build/\n")
    for words in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "dvc", "repro", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "made"],
    ):
        subprocess.run(words, check=True)
    (tmp_path / "ran").write_text("")
    return folder


@pytest.mark.slow
def test_identical_or_what_differs_and_from_which_stage_on(project, monkeypatch):
    said = []
    assert reproduce("HEAD", True, False, said.append)
    assert said[-1] == "HEAD: identical: 3 outputs of 3 stages are dvc.lock's, bit for bit"
    assert (project.parent / "ran").read_text().split() == ["export"]  # quick: data and weights are from the cache
    (project.parent / "ran").write_text("")
    monkeypatch.setenv("UNLIKE", "train")
    assert not reproduce("HEAD", False, False, said.append)
    assert (project.parent / "ran").read_text().split() == ["data", "train", "export"]
    assert "train: build/train.json (from here on)" in said
    assert "export: metrics/export.json (its inputs differ)" in said


def test_a_revision_that_is_none_is_one_line():
    with pytest.raises(UserError, match="git knows no such revision"):
        reproduce("nowhere", False, False, print)


def test_a_folder_that_holds_what_differs_is_an_input_that_differs():
    def lock(md5):
        return {
            "ptq@a": {"deps": [{"path": "code.py"}], "outs": [{"path": "build/ptq/a.json", "md5": md5}]},
            "bundle": {"deps": [{"path": "build/ptq"}], "outs": [{"path": "deploy", "md5": md5 + "d"}]},
            "other": {"deps": [{"path": "code.py"}], "outs": [{"path": "build/other", "md5": "o"}]},
        }

    assert compare_locks(lock("1"), lock("1")) == []
    assert compare_locks(lock("1"), lock("2")) == [
        Difference("ptq@a", ("build/ptq/a.json",), True),
        Difference("bundle", ("deploy",), False),
    ]


@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({"SM8650/model_ctx_qnn.bin": "x"}, True),
        ({"SM8650/model_ctx_qnn.bin": "x", "manifest.json": "x", "sbom.cdx.json": "x"}, True),
        ({"manifest.json": "x"}, False),
        ({"SM8650/model_ctx_qnn.bin": "x", "SM8650.safetensors": "x"}, False),  # its outputs differ too
        ({"SM8650/model_ctx_qnn.bin": "x", "QCS6490/model_ctx_qnn.bin": "x"}, False),  # one more file
    ],
)
def test_a_context_binary_may_differ_where_its_outputs_do_not(changed, passes):
    """Qualcomm's compiler leaves bytes of its memory in those of some graphs."""
    before = {"SM8650/model_ctx_qnn.bin": "a", "SM8650.safetensors": "b", "manifest.json": "c", "sbom.cdx.json": "d"}
    assert only_contexts(before, before | changed) is passes


def test_versions_other_than_the_recorded_are_named():
    assert other_versions((ROOT / "requirements.lock").read_text()) == []
    assert other_versions("torch==1.0 ; python_version > '3'\nnot-installed==1\n")[0].startswith("torch ")

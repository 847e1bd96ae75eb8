"""Whatever is raised becomes one line, with the layer and the user's line where they can be told; nothing else ends up
in it that differs between runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bitladder.errors import RefusedError, UserError
from bitladder.export.fp16 import HalfPrecision, export_fp16
from bitladder.paths import NOTES
from bitladder.running.explain import explain, keep_text, refusing
from support import ROOT


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.i1(x)  # which no ONNX has


class Net(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.block = nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), inner)

    def forward(self, x):
        return self.block(self.first(x))


def caught(work):
    with pytest.raises(Exception) as error:
        work()
    return error.value


def test_an_op_that_has_no_onnx_names_its_layer(tmp_path, capsys):
    half = HalfPrecision(Net(Odd()))
    sample = (torch.randn(1, 3, 4, 4),)
    error = caught(lambda: export_fp16(half, sample, (["x"], ["y"]), tmp_path / "model.onnx"))
    said = explain(error)
    assert "special_i1" in said and "in layer 'block.1'" in said and "\n" not in said
    assert not capsys.readouterr().out


def test_a_layer_that_fails_as_it_runs_is_named_with_its_line():
    class Failing(nn.Module):
        def forward(self, x):
            return x @ x[:, :2]

    said = explain(caught(lambda: Net(Failing())(torch.randn(1, 3, 4, 4))))
    assert "in layer 'block.1'" in said and "test_explain.py:" in said


def test_what_differs_between_runs_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = ValueError(f"<Net object at 0x7f00aa> cannot go to {tmp_path}/build/.model.onnx.{os.getpid()}\n  at all")
    assert explain(error) == "ValueError: <Net> cannot go to build/model.onnx at all"


def test_a_folder_that_cannot_be_written_to_says_so():
    said = explain(PermissionError(13, "Permission denied", "build/train"))
    assert said == "build/train: Permission denied; make it writable for this user"


def test_only_what_the_network_is_at_fault_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    with pytest.raises(RefusedError, match="AssertionError: no such op"), refusing("export@tiny"):
        raise AssertionError("no such op")
    assert "Traceback" in (NOTES / "export@tiny.txt").read_text()
    for error in (OSError(28, os.strerror(28)), MemoryError(), UserError("ladder: wrong"), ImportError("accelerate")):
        with pytest.raises(type(error)) as passed, refusing("export@tiny"):
            raise error
        assert not isinstance(passed.value, RefusedError)


def test_a_text_that_cannot_be_kept_is_not_promised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    assert keep_text(ValueError("no"), "ptq@tiny") == f"; {NOTES / 'ptq@tiny.txt'} has the full text"
    (tmp_path / "build/notes/ptq@tiny.txt").unlink()
    (tmp_path / "build/notes").rmdir()
    (tmp_path / "build/notes").write_text("a file where a folder should be")
    assert keep_text(ValueError("no"), "ptq@tiny") == ""


def run(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "BITLADDER_FORK": "0"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_stage_and_a_command_end_in_one_line_whatever_is_wrong_with_the_folder(params_with, tmp_path):
    params_with({})
    (tmp_path / "build").write_text("a file where a folder should be")
    done = run(tmp_path, sys.executable, ROOT / "stages/task.py", "code")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("task@code: ") and len(done.stderr.splitlines()) == 1
    (tmp_path / "reports").write_text("another")
    (tmp_path / "metrics").write_text("another")
    done = run(tmp_path, Path(sys.executable).parent / "bitladder", "report")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("bitladder: ") and len(done.stderr.splitlines()) == 1

"""`bitladder preflight`: on this machine, and what is no bundle."""

import pytest
from typer.testing import CliRunner

from bitladder.bundle.preflight import look
from bitladder.commands.cli import app
from bitladder.errors import UserError


def test_this_machine_is_looked_at_alone():
    found = {one["check"]: one["state"] for one in look(None, None, "python3", None)}
    assert found["onnxruntime-qnn"] == "ok" and found["NPU"] == "note" and "model" not in found


def test_the_command_prints_a_line_for_each_check():
    done = CliRunner().invoke(app, ["preflight"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("ok   python")
    assert "note NPU              none: the backend emulates one" in done.stdout


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        look(tmp_path, None, "python3", None)


def test_a_phone_and_a_host_at_once_are_refused():
    done = CliRunner().invoke(app, ["preflight", "--adb", "--host", "board"])
    assert done.exit_code == 1 and "give --host or --adb, not both" in done.stderr


def test_a_phone_that_lacks_is_told_in_the_same_form(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["preflight", "--adb"])
    assert done.exit_code == 1
    assert done.stdout.startswith("fail adb              target.backend: adb needs Android's adb on this machine")

"""Our commands as the real adb takes them, client and server, with a stand-in for the device's end of the protocol."""

import os
import shutil
import socket
import subprocess
from contextlib import closing

import numpy as np
import pytest
from adbd import Adbd
from models import samples, settings, two_convs
from phone import make_phone, make_sdk

from bitladder.errors import UserError
from bitladder.socs import find_soc
from bitladder.targets import phone
from bitladder.targets.adb import Adb
from bitladder.targets.context import compile_model, run
from bitladder.targets.phone import find_phone
from bitladder.targets.remote import LostError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("adb") is None, reason="needs adb (Debian: adb)")]

SOC = find_soc("SM8650")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Have adb start a server of its own, which ends with the test."""
    with closing(socket.create_server(("127.0.0.1", 0))) as one:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(one.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))  # where it keeps its key
    subprocess.run(["adb", "start-server"], capture_output=True, check=True)
    yield
    subprocess.run(["adb", "kill-server"], capture_output=True, check=True)


@pytest.fixture
def device(server, tmp_path, monkeypatch):
    commands = make_phone(tmp_path / "commands")
    (commands / "adb").unlink()
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{commands}")
    monkeypatch.setattr(phone, "FOLDER", str(tmp_path / "phone"))
    adbd = Adbd()
    subprocess.run(["adb", "connect", adbd.serial], capture_output=True, check=True)
    yield adbd
    adbd.close()


def test_no_device_is_told(server):
    with pytest.raises(UserError, match="adb sees no device: connect one"):
        find_phone(None)


def test_exit_codes_and_words_come_through(device, tmp_path):
    there = find_phone(device.serial)
    assert there.shell("printf 'a\\nb'") == "a\nb"
    with pytest.raises(UserError, match=r"adb: 127\.0\.0\.1:\d+: err: 5005 \(QNN's 5005: "):
        there.shell("echo 'err: 5005' >&2; exit 3")
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=r"adb: error: .*remote No such file or directory$"):
        there.push([tmp_path / "file"], "/proc/no/such")
    there.push([tmp_path / "file"], str(tmp_path / "commands"))
    there.pull(str(tmp_path / "commands/file"), tmp_path / "again")
    assert (tmp_path / "again").read_text() == "text"
    with pytest.raises(UserError, match=r"adb: error: .*/nothing"):
        there.pull(str(tmp_path / "nothing"), tmp_path / "nothing")


def test_a_device_that_goes_away_may_come_back(device, tmp_path):
    there = find_phone(device.serial)
    subprocess.run(["adb", "disconnect", device.serial], capture_output=True, check=True)
    with pytest.raises(LostError, match=r"device '.*' not found"):
        there.shell("true")


def test_a_model_runs_as_over_the_stand_in(device, tmp_path):
    sdk = make_sdk(tmp_path / "qairt", tmp_path)
    compiled = compile_model(two_convs(tmp_path / "model.onnx"), tmp_path / "target", SOC, False, 60, tmp_path)
    target = Adb(SOC, settings(backend="adb", qairt=str(sdk), serial=device.serial))
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    found = target.run(compiled, False, samples(3), tmp_path / "there").whole()
    expected = run(compiled, SOC, False, samples(3), settings(), tmp_path / "here")
    assert all(np.array_equal(values, found[name]) for name, values in expected.items())
    with target.installed(compiled, False, tmp_path / "there") as connect, connect() as session:
        times, told = session.time(samples(1).row(0), 1, 3)
    assert len(times) == 3 and told.name == "SM-S921B SM8650"
    assert not list((tmp_path / "phone").iterdir())

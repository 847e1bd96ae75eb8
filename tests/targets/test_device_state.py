"""What a board tells of its state, and how what it timed comes into the record."""

import pytest
from models import samples, settings

from bitladder.socs import find_soc
from bitladder.targets import runner
from bitladder.targets.ssh import Ssh, _Session

BOARD = {
    "class/thermal/thermal_zone0/temp": "41000",
    "class/thermal/thermal_zone1/temp": "52500",
    "class/thermal/cooling_device0/cur_state": "0",
    "class/thermal/cooling_device0/type": "gpu",
    "class/thermal/cooling_device1/cur_state": "2",
    "class/thermal/cooling_device1/type": "cpufreq-cpu4",
    "devices/soc0/machine": "QCS6490",
    "devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
}


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Give a function that writes files of /sys; those that are left out are not there."""
    monkeypatch.setattr(runner, "SYS", tmp_path)

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    return write


def test_heat_governor_and_chip_are_read(board):
    board(BOARD)
    told = runner.facts()
    assert (told["chip"], told["governor"], told["celsius"]) == ("QCS6490", "schedutil", 52.5)
    assert told["throttling"] == "cpufreq-cpu4"


def test_what_does_not_cool_does_not_throttle(board):
    board(BOARD | {"class/thermal/cooling_device1/cur_state": "0"})
    assert runner.facts()["throttling"] == "none"


def test_what_is_not_told_is_null(board):
    told = runner.facts()
    assert [told[name] for name in ("chip", "governor", "celsius", "throttling")] == [None] * 4


class Talk:
    """A runner on a board with an NPU."""

    def ask(self, words, arrays, limit_s):
        assert limit_s == 60 * 13
        times = [float(one) for one in range(1, words["runs"] + 1)]
        return runner.facts() | {"ms": times, "celsius_before": 40.0}, arrays


def test_times_of_a_board_come_with_its_state_and_with_why_something_is_not_told(board):
    board({name: text for name, text in BOARD.items() if "cooling" not in name and "soc0" not in name})
    told = runner.facts() | {"npu": True, "qairt": "v2.51.0.260929", "mode": "burst"}
    times, device = _Session(Talk(), told, 60.0).time(samples(1).row(0), 3, 10)
    assert (device.celsius_before, device.celsius_after, device.governor) == (40.0, 52.5, "schedutil")
    assert (device.warmup, device.runs, device.performance_mode) == (3, 10, "burst")
    assert device.untold == "no /sys/devices/soc0/machine names the chip; no cooling devices there"
    latency = Ssh(find_soc("QCS6490"), settings(backend="ssh", host="board")).latency(None, times, device)
    assert (latency.source, latency.ms, latency.p90_ms) == ("measured", 5.5, pytest.approx(9.1))
    assert latency.reason.startswith("latency: median of 10 runs after 3 to warm up, on the NPU of the device, by its")

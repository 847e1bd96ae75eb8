"""Device, emulator and simulation side by side, and what a device said of itself, as they are printed."""

from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.params import load_params
from bitladder.records import Device, Side, SideBySide
from bitladder.report.facts import facts
from bitladder.report.sides import device_line, format_sides
from records import on, write_on_target, write_project

DEVICE = Device(
    name="SM-S921B SM8650",
    runtime="qnn-net-run of QAIRT v2.51.0.1",
    qairt="v2.51.0.1",
    performance_mode="burst",
    celsius_before=41.5,
    celsius_after=48.0,
    throttling="light",
    warmup=10,
    runs=100,
    untold="adb's user may not read the governor",
)

SIDES = SideBySide(
    samples=100,
    device=Side(value=0.91, agreement=0.97, sqnr_db=21.0),
    emulator=Side(value=0.95, agreement=0.99, sqnr_db=32.5),
    simulation=0.96,
    agreement=0.975,
    sqnr_db=22.0,
)


def test_a_device_that_is_off_is_seen_beside_the_emulator():
    lines = format_sides({"fp16": on("fp16"), "tiny": on("tiny", side_by_side=SIDES)}, "accuracy").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][3:] == ["device", "emulator", "simulation", "device with emulator"]
    assert cells[2] == ["tiny", "100", "accuracy", "0.9100", "0.9500", "0.9600", ""]
    assert cells[3][2:] == ["agreement", "97.0%", "99.0%", "", "97.5%"]
    assert cells[4][2:] == ["SQNR dB", "21.0", "32.5", "", "22.0"]
    assert len(lines) == 5


def test_without_a_device_there_is_no_table():
    assert format_sides({"tiny": on("tiny")}, "accuracy") == ""


def test_a_device_is_named_with_what_it_told():
    assert device_line(DEVICE) == (
        "SM-S921B SM8650, qnn-net-run of QAIRT v2.51.0.1, QAIRT v2.51.0.1, performance mode burst,"
        " °C before and after 41.5 and 48, throttling light"
    )


def test_who_measured_is_named_with_the_device():
    assert on("tiny", backend="adb", device=DEVICE).ran_by == "adb (SM-S921B SM8650)"
    assert on("tiny").ran_by == "hexagon-emulator"


def test_show_and_the_page_have_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    write_on_target(tmp_path, "tiny", on("tiny", 0.004, side_by_side=SIDES, device=DEVICE), {})
    shown = CliRunner().invoke(app, ["show"]).stdout
    assert "| tiny   | 100       | accuracy" in shown and "device with emulator" in shown
    assert ("device of tiny", device_line(DEVICE)) in facts(load_params())

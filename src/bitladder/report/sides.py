"""Device, emulator and simulation side by side, for people; and what a device said of itself."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from bitladder.records import Device, Measurement
from bitladder.report.tables import cell, metric_cell

__all__ = ["device_line", "format_sides"]


def format_sides(targets: Mapping[str, Measurement], metric: str) -> str:
    """Give a Markdown table, three rows a rung that a device and the emulator ran; nothing where there is none."""
    rows: list[list[Any]] = []
    for rung, record in targets.items():
        if (found := record.side_by_side) is None:
            continue
        device, emulator = found.device, found.emulator
        values = (device.value, emulator.value, found.simulation)
        rows += [
            [rung, found.samples, metric, *map(metric_cell, values), ""],
            ["", "", "agreement", *_cells(device.agreement, emulator.agreement, found.agreement, ".1%")],
            ["", "", "SQNR dB", *_cells(device.sqnr_db, emulator.sqnr_db, found.sqnr_db, ".1f")],
        ]
    headers = ["rung", "samples", "with the simulation", "device", "emulator", "simulation", "device with emulator"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True) if rows else ""


def device_line(device: Device) -> str:
    """Name a device, what ran the model there, and the state it was in."""
    heat = [f"{one:g}" for one in (device.celsius_before, device.celsius_after) if one is not None]
    said = {
        "QAIRT": device.qairt,
        "performance mode": device.performance_mode,
        "governor": device.governor,
        "°C before and after": " and ".join(heat) or None,
        "throttling": device.throttling,
    }
    told = [f"{name} {value}" for name, value in said.items() if value is not None]
    return ", ".join([device.name or "a device without a name", device.runtime, *told])


def _cells(device: float | None, emulator: float | None, between: float | None, form: str) -> list[str]:
    return [cell(device, form), cell(emulator, form), "", cell(between, form)]

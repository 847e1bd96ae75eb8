"""What an Android device tells of itself: its name, the CPU's governor, its heat and what it does about it."""

import re
from dataclasses import dataclass

from bitladder.targets.phone import Phone

__all__ = ["State", "android_state"]

STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's PowerManager.THERMAL_STATUS_*, by number."""

HEAT = (0, 1, 2, 3, 4, 5, 9)  # sensors of temperature, by Android's numbers; the others are of voltage and current

_SENSOR = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=(\d+)")


@dataclass(frozen=True)
class State:
    """A device's state; None where it does not tell, and `untold` says why."""

    name: str | None
    governor: str | None
    celsius: float | None
    throttling: str | None

    @property
    def untold(self) -> list[str]:
        """Why something is None."""
        reasons = {
            "no ro.product.model": self.name,
            "adb's user may not read the governor": self.governor,
            "`dumpsys thermalservice` tells no temperature": self.celsius,
            "`dumpsys thermalservice` tells no status": self.throttling,
        }
        return [why for why, value in reasons.items() if value is None]


def android_state(phone: Phone) -> State:
    """Ask a device."""
    heat = phone.tell("dumpsys thermalservice") or ""
    current = heat.partition("Current temperatures from HAL")[2].partition("Current cooling")[0]
    sensors = [float(value) for value, kind in _SENSOR.findall(current or heat) if int(kind) in HEAT]
    status = re.search(r"Thermal Status: (\d+)", heat)
    names = [phone.tell(f"getprop {one}") for one in ("ro.product.model", "ro.soc.model")]
    return State(
        name=" ".join(filter(None, names)) or None,
        governor=phone.tell("cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        celsius=max(sensors, default=None),
        throttling=STATUS[int(status[1])] if status and int(status[1]) < len(STATUS) else None,
    )

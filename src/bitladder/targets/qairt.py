"""Qualcomm's QAIRT SDK: what an Android device needs of it, and what its profiling log says."""

import csv
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bitladder.errors import UserError
from bitladder.targets.remote import last_line
from bitladder.targets.runner import qairt_of

__all__ = ["Sdk", "find_sdk", "older"]

VARIABLES = ("QAIRT_SDK_ROOT", "QNN_SDK_ROOT")  # as the SDK's own envsetup.sh sets them

BINARIES, LIBRARIES = "bin/aarch64-android", "lib/aarch64-android"
VIEWER = "bin/x86_64-linux-clang/qnn-profile-viewer"


@dataclass(frozen=True)
class Sdk:
    """An unpacked SDK."""

    root: Path

    @property
    def version(self) -> str | None:
        """The version that its libraries name."""
        return qairt_of(self.root / LIBRARIES / "libQnnHtp.so")

    def device_files(self, arch: str) -> list[Path]:
        """Give what a device with this Hexagon generation needs. Raise UserError where the SDK lacks one."""
        generation = arch.upper()
        names = [
            f"{BINARIES}/qnn-net-run",
            *(f"{LIBRARIES}/{name}.so" for name in ("libQnnHtp", "libQnnSystem", f"libQnnHtp{generation}Stub")),
            f"lib/hexagon-{arch}/unsigned/libQnnHtp{generation}Skel.so",
        ]
        if lacking := [name for name in names if not (self.root / name).is_file()]:
            raise UserError(f"target.qairt: {self.root} has no {lacking[0]}; is it a whole SDK, and of {arch}?")
        # Where it is there, it sets the clocks of the NPU
        extensions = self.root / LIBRARIES / "libQnnHtpNetRunExtensions.so"
        return [*(self.root / name for name in names), *([extensions] if extensions.is_file() else [])]

    def times(self, log: Path) -> list[float]:
        """Read what each inference of a profiling log took as qnn-net-run saw it, in ms.

        Raises UserError where the SDK's own reader of the log fails.
        """
        table, viewer = log.with_suffix(".csv"), self.root / VIEWER
        libraries = str(self.root / "lib/x86_64-linux-clang")
        try:
            done = subprocess.run(
                [str(viewer), "--input_log", str(log), "--output", str(table)],
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise UserError(f"{viewer}: {error.strerror}") from None
        if done.returncode or not table.is_file():
            raise UserError(f"{viewer}: {last_line(done.stdout + done.stderr) or f'exit code {done.returncode}'}")
        with table.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
        # time stamp, message, time, unit, source, level, event
        return [float(row[2]) / 1e3 for row in rows if len(row) > 5 and (row[1], *row[3:6]) == EXECUTION]


EXECUTION = ("EXECUTE", "US", "NETRUN", "ROOT")


def find_sdk(root: str | None) -> Sdk:
    """Find the SDK that target.qairt names, or the environment. Raise UserError where there is none."""
    found = root or next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)
    if found is None:
        raise UserError(
            "target.backend: adb needs Qualcomm's QAIRT SDK, which has qnn-net-run for Android: unpack it, and name it"
            f" in target.qairt or in {VARIABLES[0]}"
        )
    if not Path(found).expanduser().is_dir():
        raise UserError(f"target.qairt: {found}: no such folder")
    return Sdk(Path(found).expanduser())


def older(runs: str | None, made: str | None) -> bool:
    """Whether a QAIRT that is to run a model is older than the one that compiled it; it then refuses the model."""
    if not runs or not made:
        return False
    return [int(one) for one in runs[1:].split(".")[:2]] < [int(one) for one in made[1:].split(".")[:2]]

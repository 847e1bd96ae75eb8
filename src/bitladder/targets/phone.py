"""A phone, or another device with Android, by adb's own commands; what keeps it from working in one line."""

import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bitladder.errors import UserError
from bitladder.targets.remote import LostError, last_line
from bitladder.targets.runner import explain

__all__ = ["Phone", "find_phone"]

FOLDER = "/data/local/tmp/bitladder"  # what adb's user may write and execute in
KEPT_MIN = 1440  # minutes after which what a killed run left there is removed
ADB_S = 60  # for what is no transfer and runs no model
TRANSFER_S = 1800

STATES = {
    "unauthorized": "unlock it, and allow this computer to debug it",
    "offline": "plug it in again, or run `adb reconnect`",
    "no permissions": "this user may not open it: add a udev rule for it (Debian: android-sdk-platform-tools-common)",
    "recovery": "boot it into Android",
    "sideload": "boot it into Android",
    "bootloader": "boot it into Android",
}
"""What to do about a device that adb lists in another state than `device`."""

LOST = re.compile(r"^(adb: )?error: (.*device .*not found|device offline|no devices|closed|protocol fault)")
"""What adb says where the device went away."""

FULL = "no space left on device"


class Phone:
    """A device by its serial number, which adb lists as ready."""

    def __init__(self, serial: str) -> None:
        self.serial = serial

    @property
    def place(self) -> str:
        """What a message calls it."""
        return f"target.backend: adb: {self.serial}"

    @contextmanager
    def folder(self, files: Sequence[Path]) -> Iterator[str]:
        """Give a new folder there with files in it, which is removed at the end."""
        name = f"{FOLDER}/{secrets.token_hex(8)}"
        old = f"find {FOLDER} -mindepth 1 -maxdepth 1 -mmin +{KEPT_MIN} -exec rm -rf {{}} +"
        try:
            try:
                self.shell(f"mkdir -p {FOLDER} && {{ {old}; mkdir {name}; }}")
                self.push(files, name)
            except LostError as lost:
                raise UserError(f"{self.place}: {lost}; plug it in again") from None
            yield name
        finally:
            with suppress(UserError, LostError):
                self.shell(f"rm -rf {name}")

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into a folder there."""
        self._must(["push", *map(str, files), f"{folder}/"], TRANSFER_S)

    def pull(self, there: str, here: Path) -> None:
        """Copy one file to a path, which is chosen here: no name that the device gives is used."""
        self._must(["pull", there, str(here)], TRANSFER_S)

    def shell(self, command: str, limit_s: float = ADB_S) -> str:
        """Run a command there; give what it printed."""
        return self._must(["shell", command], limit_s)

    def tell(self, command: str) -> str | None:
        """Give what a command there prints; None where it fails or prints nothing."""
        with suppress(UserError):
            return self.shell(command).strip() or None
        return None

    def _must(self, words: Sequence[str], limit_s: float) -> str:
        done = _adb(["-s", self.serial, *words], limit_s)
        printed = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            raise self._refusal(done.returncode, printed, done.stderr.decode("utf-8", "replace"))
        return printed

    def _refusal(self, code: int, printed: str, error: str) -> Exception:
        whole = f"{printed}\n{error}"
        # After an error of its own, adb goes on to say what it transferred
        errors = [line for line in whole.splitlines() if line.startswith(("adb: error:", "error:"))]
        said = last_line("\n".join(errors or [whole]).encode()) or f"exit code {code}"
        if LOST.search(said) or _listed().get(self.serial) != "device":
            return LostError(said)
        if FULL in whole.lower():
            return UserError(f"{self.place}: {said}; make room on its storage")
        if code in (137, -9):
            return UserError(f"{self.place}: killed there; is its memory too small? Run again: it goes on")
        return UserError(f"{self.place}: {said}{explain(whole)}")


def find_phone(serial: str | None) -> Phone:
    """Find the device of a serial number, or the only one there is. Raise UserError, in one line, for what lacks."""
    listed = _listed()
    if not listed:
        raise UserError(
            "target.backend: adb sees no device: connect one, and allow USB debugging in its developer options"
        )
    if serial is None and len(listed) > 1:
        raise UserError(f"target.serial: adb sees {', '.join(listed)}; name one of them")
    found = serial or next(iter(listed))
    if found not in listed:
        raise UserError(f"target.serial: adb sees no {found}; it sees {', '.join(listed)}")
    if (state := listed[found]) != "device":
        advice = next((what for known, what in STATES.items() if state.startswith(known)), "look at `adb devices`")
        raise UserError(f"target.backend: adb: {found} is {state}; {advice}")
    return Phone(found)


def _listed() -> dict[str, str]:
    """Give the state of each device that adb sees, by serial number."""
    done = _adb(["devices"], ADB_S)
    if done.returncode:
        raise UserError(f"target.backend: adb does not start: {last_line(done.stderr)}")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    rows = [re.split(r"\s+", line.strip(), maxsplit=1) for line in lines if not line.startswith(("List of", "*"))]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def _adb(words: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["adb", *words], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=limit_s
        )
    except FileNotFoundError:
        raise UserError(
            "target.backend: adb needs Android's adb on this machine: install Android's platform-tools (Debian: adb)"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"target.backend: adb {words[2] if words[0] == '-s' else words[0]}: no answer in {limit_s:g} s; is"
            " target.sample_limit_s too short, or the device stuck?"
        ) from None

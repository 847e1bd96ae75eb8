"""What keeps a model from running on a phone, asked before it is tried: adb, the SDK, the device, one inference."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bitladder.errors import UserError
from bitladder.targets.adb import Session
from bitladder.targets.phone import Phone, find_phone
from bitladder.targets.qairt import Sdk, find_sdk, older
from bitladder.targets.remote import LostError
from bitladder.targets.runner import CODES, Finding, Model, qairt_of

__all__ = ["check_phone"]

WAYS = "/dev/fastrpc-cdsp /dev/adsprpc-smd"  # to the DSP; one is enough
LIMIT_S = 120  # for one inference, loading with it


def check_phone(serial: str | None, qairt: str | None, model: Model | None, binary: Path | None) -> list[Finding]:
    """Look for what keeps a model from running there, the first cause first; without one, at the device alone."""
    findings: list[Finding] = []

    def add(what: str, good: bool, found: str, remedy: str = "", state: str = "fail") -> None:
        findings.append({"check": what, "state": "ok" if good else state, "found": found, "remedy": remedy})

    try:
        phone = find_phone(serial)
        add("adb", True, phone.serial)
    except UserError as error:
        add("adb", False, str(error))
        return findings
    try:
        sdk = find_sdk(qairt)
        if model:
            sdk.device_files(model.arch)
        add("QAIRT", True, sdk.version or "of no known version")
    except UserError as error:
        add("QAIRT", False, str(error))
        return findings
    chip, ways = phone.tell("getprop ro.soc.model"), phone.tell(f"for way in {WAYS}; do [ -r $way ] && echo $way; done")
    soc = model.soc if model else ""
    if chip:
        add("SoC", soc.lower() in chip.lower(), chip, f"the model is for {soc}: is that this device's?", "note")
    add("DSP", ways is not None, ways or "none that adb's user may read", CODES[4000][1], "note")
    if model and binary:
        made, size = qairt_of(binary), binary.stat().st_size
        add("version", not older(sdk.version, made), f"{made} compiled the model", CODES[5004][1])
        free = phone.tell("sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo") or ""
        enough = not free.isdigit() or int(free) * 1024 > 2 * size
        add("memory", enough, f"{free or 'unknown'} kB free, the binary has {size} bytes", CODES[1002][1])
        failed = _fails(phone, sdk, model, binary)
        add("model", not failed, failed or "runs on the NPU")
    return findings


def _fails(phone: Phone, sdk: Sdk, model: Model, binary: Path) -> str:
    """Run zeros through a model, which says why it does not run; nothing where it does."""
    try:
        with TemporaryDirectory() as here, phone.folder([*sdk.device_files(model.arch), binary]) as folder:
            session = Session(phone, sdk, folder, binary, Path(here), LIMIT_S)
            session.run({one.name: np.zeros(one.shape, one.dtype) for one in session.tensors()[0]}, 1)
    except (UserError, LostError) as error:
        return str(error)
    return ""

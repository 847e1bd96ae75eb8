"""Which bitladder this is, and whether a pipeline was written for it."""

import re
from importlib.metadata import PackageNotFoundError, version

from bitladder.errors import UserError
from bitladder.params import Params

__all__ = ["RELEASE", "check_version", "installed", "version_named"]

RELEASE = "0.3.0"  # here and not in what is installed: the same commit gives the same manifest


def installed(package: str) -> str | None:
    """Give the version of a package that is installed; None where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def version_named(params: str) -> str | None:
    """Give the version that the text of a params.yaml names under `bitladder:`; None where it names none."""
    found = re.search(r"(?m)^bitladder: *[\"']?([^\s\"'#]+)", params)
    return found[1] if found else None


def check_version(params: Params) -> None:
    """Refuse to run a pipeline that was written for another version: its scripts or params may not fit this one."""
    if params.bitladder and params.bitladder != RELEASE:
        raise UserError(
            f"params.yaml: bitladder: written for version {params.bitladder}, and {RELEASE} is installed; run"
            f" `bitladder upgrade`, or install version {params.bitladder.partition('+')[0]}"
        )

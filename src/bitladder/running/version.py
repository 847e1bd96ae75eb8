"""Which bitladder this is, and whether a pipeline was written for it."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bitladder.errors import UserError
from bitladder.params import PARAMS_FILE, Params, load_params

__all__ = ["RELEASE", "installed", "load_own_params", "version_named"]

RELEASE = "0.8.0"  # here and not in what is installed: the same commit gives the same manifest


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


def load_own_params(path: Path = PARAMS_FILE) -> Params:
    """Read params.yaml, as `load_params`; refuse a pipeline that was written for another version.

    Its scripts or params may not fit this one. It is refused before its params are read: a key that it lacks is only
    what follows.
    """
    try:
        named = version_named(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return load_params(path)  # which says what is wrong with the file
    if named and named != RELEASE:
        raise UserError(
            f"{path}: bitladder: written for version {named}, and {RELEASE} is installed; run"
            f" `bitladder upgrade`, or install version {named.partition('+')[0]}"
        )
    return load_params(path)

"""Which bitladder this is: its version, and a hash of its code, since between releases the version stays the same."""

import hashlib
from importlib.metadata import PackageNotFoundError, version

from bitladder.errors import UserError
from bitladder.params import Params
from bitladder.paths import PACKAGE

__all__ = ["RELEASE", "check_version", "installed", "own_version"]

RELEASE = "0.1.0"  # here and not in what is installed: the same commit gives the same manifest


def own_version() -> str:
    """Give version and code, such as `0.1.0+3f2a91c0`."""
    package = PACKAGE
    digest = hashlib.sha256()
    for path in sorted((*package.rglob("*.py"), *package.glob("*.yaml"))):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return f"{RELEASE}+{digest.hexdigest()[:8]}"


def installed(package: str) -> str | None:
    """Give the version of a package that is installed; None where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_version(params: Params) -> None:
    """Refuse to run where params.yaml was made for another bitladder, whose results nothing would tell apart.

    Where the key is absent, stages depend on bitladder's code itself, by what the stage `sources` lists.
    """
    if params.bitladder and params.bitladder != own_version():
        raise UserError(
            f"params.yaml: bitladder is {params.bitladder}, and {own_version()} is installed; install the first, or"
            f" write `bitladder: {own_version()}`, and every stage runs anew"
        )

"""Optional packages: a missing one is named, with how to install it."""

from collections.abc import Iterator
from contextlib import contextmanager

from bitladder.errors import UserError

__all__ = ["needs"]


@contextmanager
def needs(extra: str, package: str) -> Iterator[None]:
    """Turn a failed import into a UserError that names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"task: {package} is not installed ({error}); pip install 'bitladder[{extra}]'") from None

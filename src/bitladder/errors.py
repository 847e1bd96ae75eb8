"""The errors that a user is meant to see."""

__all__ = ["RefusedError", "UserError"]


class UserError(Exception):
    """Something the user can put right: one line that names the key or file and says what to do."""


class RefusedError(UserError):
    """What a network does not allow at one precision, however often it is tried: the rung is refused, no more."""

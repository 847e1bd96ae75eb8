"""The one error a user is meant to see."""

__all__ = ["RefusedError", "UserError"]


class UserError(Exception):
    """Something the user can put right: one line that names the key or file and says what to do."""


class RefusedError(UserError):
    """A target that does not take a model, however often it is asked."""

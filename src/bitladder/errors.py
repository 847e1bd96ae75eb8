"""The one error a user is meant to see."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the user can put right: one line that names the key or file and says what to do."""

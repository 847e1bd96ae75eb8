"""What a goal allows, in a metric's own unit. Plain numbers."""

__all__ = ["allowed", "is_within"]

TOLERANCE = 5e-6  # relative: metrics files hold 6 digits, and a figure of exactly the limit must pass


def allowed(reference: float, limit: float | None, relative: float | None) -> float | None:
    """Give the most that a metric may lose, by a limit and by one that is a share of the reference; None: no limit."""
    limits = [limit, None if relative is None else relative * abs(reference)]
    return min((one for one in limits if one is not None), default=None)


def is_within(value: float, limit: float | None) -> bool:
    """Whether a figure is within a limit, if there is one."""
    return limit is None or value <= limit + TOLERANCE * abs(limit)

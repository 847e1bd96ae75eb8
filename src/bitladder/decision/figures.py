"""Figures of a metric as people read them, whatever its scale."""

__all__ = ["figure", "interval"]

SMALL = 1e-3  # of less, 4 decimals leave nothing to read


def figure(value: float, sign: str = "") -> str:
    """Give 4 decimals; of a small one, such as an error of 1e-9, 3 digits. `sign` is `+` or nothing."""
    return format(value, f"{sign}.4f" if not value or abs(value) >= SMALL else f"{sign}.3g")


def interval(low: float | None, high: float | None, sign: str = "+") -> str:
    """Give an interval's ends; nothing where there is none."""
    if low is None or high is None:
        return ""
    if max(abs(low), abs(high)) >= SMALL:  # both ends alike
        return f"{low:{sign}.4f} to {high:{sign}.4f}"
    return f"{figure(low, sign)} to {figure(high, sign)}"

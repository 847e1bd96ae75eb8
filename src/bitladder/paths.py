"""Where everything lies: the installed package, and each file and folder of a pipeline."""

from pathlib import Path

__all__ = ["PACKAGE"]

PACKAGE = Path(__file__).parent
"""This package's code and data, as it is installed."""

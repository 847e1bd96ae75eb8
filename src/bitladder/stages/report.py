"""report: the decision, the figures and the plots as one HTML page. `bitladder report` does the same.

The page names the git revision, so that it is no output of DVC's: its bits would differ from commit to commit.
"""

from bitladder.params import Params
from bitladder.paths import PAGE
from bitladder.report.page import render
from bitladder.running.files import write_text

__all__ = ["main"]


def main(params: Params) -> None:
    """Write reports/index.html."""
    write_text(PAGE, render(params))

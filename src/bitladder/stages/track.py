"""track: the metrics files, sent to MLflow. `bitladder track` does the same."""

import sys

from bitladder.errors import UserError
from bitladder.params import Params
from bitladder.report.tracking import track

__all__ = ["main"]


def main(params: Params) -> None:
    """Log to MLflow, or say that it is away: the results are all there, so that must not fail the pipeline."""
    try:
        print(track(params))  # noqa: T201
    except UserError as error:
        print(f"track: {error}; run `bitladder track` when it is back", file=sys.stderr)  # noqa: T201

"""track: what the metrics files say, sent to MLflow. `bitladder track` does the same."""

import sys

from bitladder.errors import UserError
from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.report.tracking import track

    try:
        print(track(params))  # noqa: T201
    except UserError as error:
        # The results are all there: a server that is away must not fail the pipeline
        print(f"track: {error}; run `bitladder track` when it is back", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    run(main)

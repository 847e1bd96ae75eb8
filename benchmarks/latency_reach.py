"""How far latency estimates are off models that the fit has not seen: latency/data/reach.csv, for their intervals.

Run after a change of the published data or of the fit: python benchmarks/latency_reach.py (2 s)
"""

import argparse
from pathlib import Path

from bitladder.latency.estimate import reach_by_precision
from bitladder.running.files import write_csv

DATA = Path(__file__).parents[1] / "src/bitladder/latency/data"


def main() -> None:
    """Fit without each model in turn, and write the file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    reach = reach_by_precision()
    write_csv(
        DATA / "reach.csv", ["precision", "reach"], [{"precision": key, "reach": value} for key, value in reach.items()]
    )


if __name__ == "__main__":
    main()

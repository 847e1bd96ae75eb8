"""What a folder of many files costs DVC as a dependency, beside a list of their hashes.

    python benchmarks/many_files.py --files 20000 200000

Makes a folder of so many files of 20 kB, and a pipeline of one stage that does nothing and depends on the folder, or on
the list. Prints the seconds of the first `dvc repro`, of one that has nothing to do, and of one after an edited file
(for the list: with making it anew). 200,000 files take 4 GB in a temporary folder.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

LIST = "(cd data && find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum) > data.sha256"
A_FOLDER = 1_000  # files


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--bytes", type=int, default=20_000)
    options = parser.parse_args()
    columns = ["files", "dependency", "first, s", "nothing to do, s", "one file edited, s"]
    print(tabulate([row for count in options.files for row in measure(count, options.bytes)], columns, "github"))


def measure(count: int, size: int) -> list[list]:
    """Give the rows of a folder of so many files."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for index in range(count):
            folder = work / "data" / str(index // A_FOLDER)
            folder.mkdir(parents=True, exist_ok=True)
            folder.joinpath(f"{index}.jpg").write_bytes(os.urandom(size))
        run(work, "git init --quiet && dvc init --quiet && dvc config core.analytics false")
        listed = run(work, LIST)
        rows = []
        for dependency in ("data", "data.sha256"):
            again = LIST if dependency != "data" else "true"
            work.joinpath("dvc.yaml").write_text(f"stages: {{it: {{cmd: 'true', deps: [{dependency}]}}}}\n")
            first = run(work, "dvc repro")
            first += listed if dependency != "data" else 0
            nothing = run(work, "dvc repro")
            work.joinpath("data/0/0.jpg").write_bytes(os.urandom(size))
            edited = run(work, f"{again} && dvc repro")
            rows.append([count, dependency, *(f"{seconds:.1f}" for seconds in (first, nothing, edited))])
        return rows


def run(folder: Path, command: str) -> float:
    """Run a command line; give its seconds."""
    start = time.perf_counter()
    subprocess.run(command, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S602
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""A run of its own, which may be killed: the toy's samples over a cluster, slowly; prints what is said.

Usage: python cluster_driver.py FOLDER SAMPLES ADDRESS
"""

import sys
from pathlib import Path

import mishaps
from models import samples, settings

from bitladder.errors import UserError
from bitladder.params import ComputeParams
from bitladder.running import cluster
from bitladder.socs import find_soc
from bitladder.targets import context
from bitladder.targets.cluster_pool import cluster_pool
from bitladder.targets.context import CONTEXT_FILE, Compiled, run_stored


def main(folder: Path, count: int, address: str) -> None:
    context.SAVE_EVERY_S, cluster.LOST_S = 0.2, 5.0
    context.run_batch = mishaps.takes_a_while
    try:
        with cluster_pool(ComputeParams(threads=1, cluster=address)) as pool:
            compiled = Compiled(folder / "target" / CONTEXT_FILE, 0, 0, 0)
            run_stored(compiled, find_soc("SM8650"), False, samples(count), settings(), folder / "work", pool)
    except UserError as error:
        print(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

"""What reading costs beside the compute: a QuantSim calibrated from JPEG files, and from tensors in memory.

    python benchmarks/loading.py --model resnet18 --images 320 --repeats 3

Makes images of 224 px as scale.py does, builds a W8A8 QuantSim of a torchvision network, and calibrates it in turn on
tensors in memory, on the files read by two workers, and on the files read by the process itself. Prints medians, and
the ratio to tensors of each repeat. The ranges must come out the same, bit for bit.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from scale import make_images

from bitladder.precision import Precision
from bitladder.running import determinism

BATCH, CONFIG = 16, "htp_v75"


def main() -> None:
    """Measure, and print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", default="resnet18", help="of torchvision")
    words.add_argument("--images", type=int, default=320)
    words.add_argument("--repeats", type=int, default=3)
    given = words.parse_args()
    determinism.pin(2)
    from bitladder.network.model import build_network, sample_inputs
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.tasks.builtin.image_folder import task as image_folder
    from bitladder.tasks.samples import in_memory
    from bitladder.tasks.splits import make_splits

    with tempfile.TemporaryDirectory(prefix="bitladder-loading-") as name:
        list(make_images(Path(name), given.images * 10))  # a tenth of them is there to calibrate with
        task = image_folder(name, given.model)
        read, alone = (make_splits(task, 0, workers)["calibration"] for workers in (2, 0))
        ways = {"tensors in memory": in_memory(read), "JPEG, two workers": read, "JPEG, no workers": alone}
        sample = sample_inputs(read)
        model, _ = prepare(build_network(task).eval(), sample)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(given.repeats + 1):  # the first warms up
            ranges = []
            for way, samples in ways.items():
                took, found = calibrated(model, sample, samples)
                ranges.append(found)
                if number:
                    seconds[way].append(took)
            assert ranges[0] == ranges[1] == ranges[2], "other ranges"
    print(f"| {given.images} images, {given.model} | s, median of {given.repeats} | to tensors |\n|---|---|---|")
    first = next(iter(seconds.values()))
    for way, took in seconds.items():
        ratios = [one / other for one, other in zip(took, first, strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {way} | {median(took):.1f} | {median(ratios):.2f} ({each}) |")


def calibrated(model: Any, sample: Any, samples: Any) -> tuple[float, list[Any]]:
    """Calibrate a new QuantSim; give the seconds, and its ranges."""
    from bitladder.quantize.sim.sim import build_sim

    sim = build_sim(model, sample, Precision(8, 8), CONFIG)
    start = time.perf_counter()
    sim.calibrate(samples, BATCH)
    return time.perf_counter() - start, list(sim.encodings().items())


if __name__ == "__main__":
    main()

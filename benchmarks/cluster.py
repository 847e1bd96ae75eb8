"""What a Ray cluster costs over processes of this machine, and a calculation of 100 and 1,000 workers from that.

Run: python benchmarks/cluster.py [MODEL.onnx] [--precision W8A8] [--samples 200] [--repeat 5] [--total 50000].
Without a model: build/export/compact/model.onnx. Needs bitladder[ray]. Prints Markdown.

Measured, in turns, each started anew for its turn and warm when its clock starts: the same samples over as many
processes of this machine, and over `compute.cluster: local`; work that does nothing, for what each piece costs. On a
machine that does nothing else the time says what Ray costs. Beside other work CPU says more: of this process, which
feeds all workers, and of all, which is what cores have to give. It counts Ray too much then: what Ray's own processes
take when idle goes by the clock, and is told apart.

Calculated: workers that take for each piece the CPU measured here of one, drawn at random; this process and its network
(10 Gbit/s) hand the pieces out one after the other. What that comes to is compared with workers that never wait.
"""

import argparse
import heapq
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import psutil
import torch

from bitladder.network.outputs import StoredOutputs
from bitladder.params import load_params
from bitladder.targets.backend import run_batch
from bitladder.targets.cluster_pool import cluster_pool
from bitladder.targets.context import AHEAD, QUICK_S, TOGETHER, compile_model, run_stored
from bitladder.targets.pool import Pool
from bitladder.targets.workers import worker_pool
from bitladder.tasks.task import Split

NETWORK = 1.25e9  # bytes a second: 10 Gbit/s, which is assumed

EMPTY = 300  # pieces of work that do nothing

IDLE_S = 5.0  # in which nothing is asked for


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock, of this process's CPU, and of that of all processes that it has started too."""

    wall: float
    cpu: float
    all: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> "Cost":
        """Measure some work."""
        wall, cpu, whole = time.perf_counter(), time.process_time(), _cpu_of_all()
        work()
        return cls(time.perf_counter() - wall, time.process_time() - cpu, _cpu_of_all() - whole)


def _cpu_of_all() -> float:
    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in [own, *own.children(recursive=True)])


def cpu_of_one(*arguments: Any) -> float:
    """Give the CPU seconds of the emulator for a sample: what it takes where nothing else runs."""
    start = time.process_time()
    run_batch(*arguments)
    return time.process_time() - start


def random_split(model: Path, count: int) -> Split:
    """Make samples of the model's own shapes."""
    graph = onnx.load(model, load_external_data=False).graph
    weights = {one.name for one in graph.initializer}
    shapes = {
        one.name: [size.dim_value for size in one.type.tensor_type.shape.dim][1:]
        for one in graph.input
        if one.name not in weights
    }
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.rand(count, *shape, generator=generator) for name, shape in shapes.items()}
    return Split(inputs, torch.zeros(count))


def do_nothing(pool: Pool) -> Cost:
    """Have pieces of work done that do nothing; give what one costs."""
    found = Cost.of(lambda: [future.result() for future in [pool.schedule(abs, args=(-1,)) for _ in range(EMPTY)]])
    return Cost(found.wall / EMPTY, found.cpu / EMPTY, found.all / EMPTY)


def finish_s(total: int, workers: int, size: int, piece_s: np.ndarray, hand_s: float) -> float:
    """Give when the last of the samples is done, where pieces are handed out one after the other, `hand_s` each."""
    draw, free = np.random.default_rng(0), [0.0] * workers
    for piece in range(-(-total // size)):
        start = max(heapq.heappop(free), (piece + 1) * hand_s)
        heapq.heappush(free, start + draw.choice(piece_s))
    return float(max(free))


def main() -> None:
    """Measure, then calculate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("build/export/compact/model.onnx"))
    parser.add_argument("--precision", default="W8A8")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--total", type=int, default=50_000)
    given = parser.parse_args()
    params, split, fp16 = load_params(), random_split(given.model, given.samples), given.precision == "FP16"
    compute, soc = params.compute.model_copy(update={"cluster": "local"}), params.soc
    workers, first_s = os.cpu_count() or 1, 0.0
    runs: dict[str, list[Cost]] = {"processes": [], "Ray": []}
    nothing: dict[str, Cost] = {}
    idle: dict[str, float] = {}
    answers: list[StoredOutputs] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        compiled = compile_model(given.model, folder / "target", soc, fp16, params.target.compile_limit_s, folder)

        def emulate(pool: Pool, count: int = given.samples) -> StoredOutputs:
            with TemporaryDirectory() as kept:
                done = run_stored(compiled, soc, fp16, split.first(count), params.target, Path(kept), pool)
                return done.whole()

        for _ in range(given.repeat):
            for kind, costs in runs.items():
                start = time.perf_counter()
                # each alone: what Ray does when it has nothing to do is a cost of Ray's
                with worker_pool(workers, folder) if kind == "processes" else cluster_pool(compute) as pool:
                    emulate(pool, 1)
                    first_s = time.perf_counter() - start
                    emulate(pool, 8 * workers)  # all of its processes have the model open
                    costs.append(Cost.of(lambda pool=pool: answers.append(emulate(pool))))
                    nothing[kind] = do_nothing(pool)
                    idle[kind] = Cost.of(lambda: time.sleep(IDLE_S)).all / IDLE_S
        row = split.row(0)
        with worker_pool(1, folder) as one:
            arguments = (one.send(compiled.context), soc.soc_model, fp16, row)
            seconds = [one.schedule(cpu_of_one, args=arguments).result() for _ in range(given.samples)]
    same = all(torch.equal(one[key], answers[0][key]) for one in answers for key in one)
    pairs = list(zip(runs["processes"], runs["Ray"], strict=True))
    by_wall, by_cpu = [mine.wall / ray.wall for mine, ray in pairs], [mine.all / ray.all for mine, ray in pairs]
    print(
        f"{given.model}, {given.samples} samples, {workers} workers on {workers} cores (load"
        f" {os.getloadavg()[0]:.1f}), {given.repeat} times in turns; outputs {'equal' if same else 'DIFFER'}."
        f" The first result of Ray comes after {first_s:.0f} s.\n"
    )
    print(
        "| over | time, ms a sample | CPU of all | CPU here | nothing, ms a piece | CPU here, ms a piece"
        " | idle, of a core |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind, costs in runs.items():
        wall_ms, whole_ms, here_ms = (
            1e3 / given.samples * statistics.median(each)
            for each in ([one.wall for one in costs], [one.all for one in costs], [one.cpu for one in costs])
        )
        none = nothing[kind]
        shown = (wall_ms, whole_ms, here_ms, 1e3 * none.wall, 1e3 * none.cpu)
        print(f"| {kind} | {' | '.join(f'{one:.2f}' for one in shown)} | {idle[kind]:.1%} |")
    for what, found in (("Time", by_wall), ("CPU of all", by_cpu)):
        low, middle, high = (float(np.quantile(found, share)) for share in (0.1, 0.5, 0.9))
        print(f"\n{what}, processes to Ray, pair by pair: median {middle:.3f}, 10 to 90 %: {low:.3f} to {high:.3f}.")
    print()

    sample_s, size = statistics.median(seconds), 1
    while size < TOGETHER and size * sample_s < QUICK_S:
        size *= 2
    piece_s = np.random.default_rng(1).choice(seconds, (1000, size)).sum(1)
    bytes_in = sum(values.nbytes for values in row.values())
    bytes_out = sum(values[0].nbytes for values in answers[0].values())
    sent_cpu = min(one.cpu for one in runs["Ray"]) / given.samples
    with TemporaryDirectory() as kept:
        keep_cpu = Cost.of(lambda: StoredOutputs(Path(kept)).append(answers[0])).cpu / given.samples
    ways = {
        "samples": (size * sent_cpu, size * (bytes_in + bytes_out)),
        "indices": (nothing["Ray"].cpu + size * keep_cpu, size * bytes_out),
    }
    print(
        f"{given.total:,} samples of {bytes_in:,} bytes, outputs of {bytes_out:,}; {1e3 * sample_s:.1f} ms a sample,"
        f" {size} a piece; context binary of {compiled.memory_bytes:,} bytes\n"
    )
    print("| workers | sent are | done in s | of the ideal | bottleneck | in the object store |")
    print("|---|---|---|---|---|---|")
    for workers in (2, 100, 1000):
        for way, (cpu, moved) in ways.items():
            ideal = given.total / size * piece_s.mean() / workers
            done = finish_s(given.total, workers, size, piece_s, max(cpu, moved / NETWORK))
            handing = given.total / size * max(cpu, moved / NETWORK)
            limit = "the last pieces" if done > 1.02 * ideal else "emulation"
            if handing > 0.9 * done:
                limit = "this process's CPU" if cpu > moved / NETWORK else "its network"
            stored = AHEAD * workers * size * bytes_in / 1e6 if way == "samples" else 0
            print(f"| {workers:,} | {way} | {done:,.0f} | {ideal / done:.0%} | {limit} | {stored:,.0f} MB |")


if __name__ == "__main__":
    main()

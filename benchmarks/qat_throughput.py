"""Images a second of QAT against FP32 training of the same network, with AIMET's own quantizers and with the lean ones.

    python benchmarks/qat_throughput.py [mnist] [efficientnet_lite0]

All run in one process, round by round, on the same batches. The best round of each counts, by the wall clock and by the
CPU time that it took: on a machine with other work the second is the fairer.
"""

import argparse
import contextlib
import time
import warnings

from bitladder.running import determinism

THREADS, ROUNDS = 2, 3

# task, samples, batch size, batches a round
NETWORKS = {
    "mnist": ("bitladder.tasks.builtin.mnist:task", 64, 64, 10),
    "efficientnet_lite0": ("bitladder.tasks.builtin.efficientnet_lite0:task", 16, 16, 2),
}


def main() -> None:
    """Print a table with three rows a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=" or ".join(NETWORKS))
    given = parser.parse_args()
    if unknown := [name for name in given.networks if name not in NETWORKS]:
        parser.error(f"{unknown[0]}: no such network; use {' or '.join(NETWORKS)}")
    determinism.pin(THREADS)
    warnings.filterwarnings("ignore")
    print("| net, batch | training | images/s | of FP32 | images/s of CPU time | of FP32 |")
    print("|---|---|---|---|---|---|")
    for name in given.networks:
        measure(name)


def measure(name: str) -> None:
    """Train one network in FP32, then as W4A8 with both kinds of quantizers."""
    import copy

    from bitladder.network.model import build_network, sample_inputs
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.quantize.sim.fast_quant import aimets_own, plain_tensors
    from bitladder.quantize.sim.sim import build_sim
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.splits import make_splits
    from bitladder.tasks.task import load_task

    factory, count, size, batches = NETWORKS[name]
    seed_all(0)
    task = load_task(factory, {"train": count, "calibration": size, "evaluation": 1})
    train = make_splits(task, 0)["train"]
    sample = sample_inputs(train)
    model, _ = prepare(build_network(task).eval(), sample)
    sim = build_sim(copy.deepcopy(model), sample, Precision(4, 8), "htp_v75")
    sim.calibrate(train, size)
    state = copy.deepcopy(sim.model.state_dict())
    kinds = {
        "FP32": (model, contextlib.nullcontext),
        "QAT, AIMET's own": (sim.model, aimets_own),
        "QAT, lean": (sim.model, plain_tensors),
    }
    best: dict[str, tuple[float, float]] = {}
    for _ in range(ROUNDS):
        for kind, (network, context) in kinds.items():
            sim.model.load_state_dict(state)
            with context():
                train_batches(network, task, train, size, 1)
                found = train_batches(network, task, train, size, batches)
            best[kind] = tuple(map(max, found, best.get(kind, found)))
    for kind, (wall, cpu) in best.items():
        shares = (wall / best["FP32"][0], cpu / best["FP32"][1])
        print(f"| {name}, {size} | {kind} | {wall:.4g} | {shares[0]:.2f} | {cpu:.4g} | {shares[1]:.2f} |", flush=True)


def train_batches(network, task, train, size: int, batches: int) -> tuple[float, float]:
    """Run the plain loop, and give images a second by both clocks."""
    import torch

    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-5)
    start, cpu = time.perf_counter(), time.process_time()
    for batch in range(batches):
        rows = slice(batch * size % len(train), batch * size % len(train) + size)
        loss = task.loss(network(*(values[rows] for values in train.inputs.values())), train.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return batches * size / (time.perf_counter() - start), batches * size / (time.process_time() - cpu)


if __name__ == "__main__":
    main()

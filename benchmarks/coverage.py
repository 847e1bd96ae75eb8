"""Which architectures go through: torchvision nets with random weights, prepared, quantized, exported, compiled, run.

Run: python benchmarks/coverage.py [NET ...]. Prints a Markdown table; a net that fails is a row that says why.
"""

import argparse
import multiprocessing
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# net: side of the images in pixels
NETS = {
    "resnet18": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 32,
    "vit_b_16": 32,
    "deeplabv3_mobilenet_v3_large": 64,
}

LIMIT_S = 400.0  # for one net at both precisions; some graphs never finish compiling
CALIBRATION, SAMPLES = 16, 2

Bits = tuple[int, int]

RUNGS: tuple[Bits, ...] = ((8, 16), (8, 8))


def main() -> None:
    """Run every net in a process of its own, and print its rows as it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--soc", default="SM8650")
    given = parser.parse_args()
    print("| net | px | prepared | rung | compiled | ops on NPU | SQNR dB, NPU against QuantSim | error |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    for net in given.nets:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(net, given.soc, sender))
        process.start()
        sender.close()  # so that the process's death ends the wait
        rows: dict[Bits, dict[str, Any]] = {bits: {} for bits in RUNGS}
        why = collect(receiver, rows, time.monotonic() + LIMIT_S)
        for bits, row in rows.items():
            if not {"sqnr_db", "error"} & set(row):
                row["error"] = why
            print(line(net, bits, row), flush=True)
        process.terminate()
        process.join()


def collect(receiver: Any, rows: dict[Bits, dict[str, Any]], until: float) -> str:
    """Take what the process sends, until it ends or time is up; give the reason for what is missing then."""
    while receiver.poll(max(0.0, until - time.monotonic())):
        try:
            bits, facts = receiver.recv()
        except EOFError:
            return "its process died"
        for row in [rows[bits]] if bits else rows.values():
            row |= facts
        if all({"sqnr_db", "error"} & set(row) for row in rows.values()):
            return ""
    return f"not finished in {LIMIT_S:g} s"


def line(net: str, bits: Bits, row: dict[str, Any]) -> str:
    """Give a row of the table."""
    cells = [
        net,
        str(NETS[net]),
        row.get("prepared", "no"),
        f"W{bits[0]}A{bits[1]}",
        "yes" if "ops" in row else "no",
        str(row.get("ops", "-")),
        f"{row['sqnr_db']:.1f}" if "sqnr_db" in row else "-",
        row.get("error", ""),
    ]
    return f"| {' | '.join(cells)} |"


def measure(net: str, soc_name: str, sender: Any) -> None:
    """Take one net through all steps at each precision, sending what is known as soon as it is."""
    from bitladder.running import determinism

    determinism.pin(2)
    import torch

    from bitladder.errors import UserError
    from bitladder.network.evaluate import predict, sqnr_db
    from bitladder.network.model import sample_inputs
    from bitladder.quantize.prepare.prepare import check_equal, prepare
    from bitladder.tasks.task import Split

    torch.manual_seed(0)
    images = torch.randn(CALIBRATION, 3, NETS[net], NETS[net])
    split = Split({"image": images}, torch.zeros(CALIBRATION))
    try:
        model = network(net, NETS[net], images)
        expected = predict(model, split, CALIBRATION, "fp32")
        prepared, how = prepare(model, sample_inputs(split))
        check_equal(sqnr_db(expected, predict(prepared, split, CALIBRATION, "prepared")))
        sender.send((None, {"prepared": str(how)}))
    except UserError as error:
        sender.send((None, {"error": str(error)[:300]}))
        return
    for bits in RUNGS:
        try:
            sender.send((bits, run(prepared, split, bits, soc_name, sender)))
        except (UserError, RuntimeError) as error:
            sender.send((bits, {"error": " ".join(str(error).split())[:300]}))


def run(prepared: Any, split: Any, bits: Bits, soc_name: str, sender: Any) -> dict[str, Any]:
    """Calibrate, export, compile and emulate one rung; give its SQNR, or what the NPU does not take."""
    import torch
    from pebble import ProcessPool

    from bitladder.export.checks import graph_names
    from bitladder.network.evaluate import predict, sqnr_db
    from bitladder.network.model import output_names, sample_inputs
    from bitladder.precision import Precision
    from bitladder.quantize.sim.torch_sim import build_sim, calibrate, export_qdq
    from bitladder.socs import find_soc
    from bitladder.targets.backend import CONTEXT_FILE, compile_context, redirect_output, run_batch

    soc = find_soc(soc_name)
    sample, few = sample_inputs(split), split.first(SAMPLES)
    sim = build_sim(prepared, sample, Precision(*bits), soc.quantsim_config)
    calibrate(sim, split, CALIBRATION)
    simulated = predict(sim.model, few, 1, "sim")
    context = multiprocessing.get_context("spawn")
    with (
        TemporaryDirectory() as folder,
        ProcessPool(1, initializer=redirect_output, initargs=(f"{folder}/log",), context=context) as pool,
    ):
        path = Path(folder) / "model.onnx"
        export_qdq(sim, sample, graph_names(["image"], list(output_names(prepared) or ())), path)
        placed = pool.schedule(compile_context, args=(str(path), folder, soc.soc_model, False)).result()
        if placed["cpu"]:
            named = ", ".join(placed["cpu"][:3])
            return {"error": f"{len(placed['cpu'])} ops are left for the CPU: {named}"}
        sender.send((bits, {"ops": len(placed["npu"])}))
        jobs = [
            (f"{folder}/{CONTEXT_FILE}", soc.soc_model, False, {"image": row.numpy()})
            for row in few.inputs["image"].split(1)
        ]
        rows = [pool.schedule(run_batch, args=job).result() for job in jobs]
    return {
        "sqnr_db": sqnr_db(simulated, {key: torch.cat([torch.from_numpy(row[key]) for row in rows]) for key in rows[0]})
    }


def network(net: str, side: int, images: Any) -> Any:
    """Build a net with random weights, its batch norms set by running images, its zero head drawn at random."""
    import torch
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if net.startswith("deeplab"):
        options["weights_backbone"] = None
    if net.startswith("vit"):
        options["image_size"] = side
    model = torchvision.models.get_model(net, **options)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)  # a head of zeros would hide every error
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(images)
    return model.eval()


if __name__ == "__main__":
    main()

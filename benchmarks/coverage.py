"""Which architectures go through: nets with random weights, prepared, quantized, exported, repaired, compiled, run.

Run: python benchmarks/coverage.py [NET ...]. Prints a Markdown table; a net that fails is a row that says why.
"""

import argparse
import multiprocessing
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
    "densenet121": 64,
    "googlenet": 64,
    "efficientnet_v2_s": 64,
    "swin_t": 64,
    "mnasnet0_5": 64,
    "fcn_resnet50": 64,
    "lstm": 16,
    "gru": 16,
    "encoder": 16,
    "unet": 32,
    "detector_head": 32,
}
"""Side of the images in pixels; of the recurrent nets and the transformer encoder, the number of tokens."""

TOKENS = ("lstm", "gru", "encoder")

LIMIT_S = 400.0  # for one net at all precisions; some graphs never finish compiling
CALIBRATION, SAMPLES = 16, 2

Bits = tuple[int, int]

HALF: Bits = (16, 0)  # stands for FP16

RUNGS: tuple[Bits, ...] = (HALF, (8, 16), (8, 8))


def main() -> None:
    """Run every net in a process of its own, and print its rows as it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--soc", default="SM8650")
    given = parser.parse_args()
    print("| net | px | prepared | rung | repairs | ops on NPU | SQNR dB, NPU against QuantSim | error |")
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
        "FP16" if bits == HALF else f"W{bits[0]}A{bits[1]}",
        row.get("repairs", "-"),
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
    shape = (NETS[net], 32) if net in TOKENS else (3, NETS[net], NETS[net])
    images = torch.randn(CALIBRATION, *shape)
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
            sender.send((bits, run(model if bits == HALF else prepared, split, bits, soc_name, sender)))
        except (UserError, RuntimeError) as error:
            sender.send((bits, {"error": " ".join(str(error).split())[:300]}))


def run(prepared: Any, split: Any, bits: Bits, soc_name: str, sender: Any) -> dict[str, Any]:
    """Calibrate, export, compile and emulate one rung; give its SQNR, or what the NPU does not take."""
    import torch
    from pebble import ProcessPool

    from bitladder.export.checks import graph_names
    from bitladder.export.fp16 import HalfPrecision, export_fp16
    from bitladder.export.repairs import repair_file
    from bitladder.network.evaluate import predict, sqnr_db
    from bitladder.network.model import output_names, sample_inputs
    from bitladder.params import RULES
    from bitladder.precision import Precision
    from bitladder.quantize.sim.sim import build_sim
    from bitladder.socs import find_soc
    from bitladder.targets.backend import CONTEXT_FILE, compile_context, redirect_output, run_batch

    soc = find_soc(soc_name)
    sample, few = sample_inputs(split), split.first(SAMPLES)
    half = bits == HALF
    if half:
        simulated = predict(module := HalfPrecision(prepared), few, 1, "fp16")
    else:
        sim = build_sim(prepared, sample, Precision(*bits), soc.quantsim_config)
        sim.calibrate(split, CALIBRATION)
        simulated = predict(sim.model, few, 1, "sim")
    context = multiprocessing.get_context("spawn")
    with (
        TemporaryDirectory() as folder,
        ProcessPool(1, initializer=redirect_output, initargs=(f"{folder}/log",), context=context) as pool,
    ):
        path = Path(folder) / "model.onnx"
        names = graph_names(["image"], list(output_names(prepared) or simulated))
        if half:
            export_fp16(module, sample, names, path)
        else:
            sim.export_qdq(sample, names, path)
        repairs = Counter(one.rule for one in repair_file(path, soc, tuple(RULES)) or ())
        sender.send((bits, {"repairs": ", ".join(f"{count} {rule}" for rule, count in repairs.items()) or "none"}))
        placed = pool.schedule(compile_context, args=(str(path), folder, soc.soc_model, half)).result()
        if placed["cpu"]:
            named = ", ".join(placed["cpu"][:3])
            return {"error": f"{len(placed['cpu'])} ops are left for the CPU: {named}"}
        sender.send((bits, {"ops": len(placed["npu"])}))
        jobs = [
            (f"{folder}/{CONTEXT_FILE}", soc.soc_model, half, {"image": row.numpy()})
            for row in few.inputs["image"].split(1)
        ]
        rows = [pool.schedule(run_batch, args=job).result() for job in jobs]
    return {
        "sqnr_db": sqnr_db(simulated, {key: torch.cat([torch.from_numpy(row[key]) for row in rows]) for key in rows[0]})
    }


def small_networks() -> dict[str, Any]:
    """Give the nets that are none of torchvision's, by name."""
    import torch
    from torch import Tensor, nn

    class Recurrent(nn.Module):
        def __init__(self, kind: type[nn.RNNBase]) -> None:
            super().__init__()
            self.layer, self.head = kind(32, 32, batch_first=True), nn.Linear(32, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.layer(tokens)[0])

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
            self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6())
            self.up, self.head = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 3, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            first = self.first(image)
            return self.head(torch.cat([first, self.up(self.middle(first))], 1))

    class DetectorHead(nn.Module):
        """Boxes in pixels and scores from 0 to 1, in one Concat, as YOLO ends."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU())
            self.boxes, self.scores = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 8, 1)

        def forward(self, image: Tensor) -> Tensor:
            inner = self.body(image)
            return torch.cat([(self.boxes(inner) + 3) * 32, torch.sigmoid(self.scores(inner))], 1).flatten(2)

    return {
        "lstm": lambda: Recurrent(nn.LSTM),
        "gru": lambda: Recurrent(nn.GRU),
        "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2),
        "unet": UNet,
        "detector_head": DetectorHead,
    }


def network(net: str, side: int, images: Any) -> Any:
    """Build a net with random weights, its batch norms set by running images, its zero head drawn at random."""
    import torch
    import torchvision

    if net in (small := small_networks()):
        return small[net]().eval()
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

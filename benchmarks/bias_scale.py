"""What AIMET's default export of int32 biases does on the NPU, and whether the gap finder names it.

    python benchmarks/bias_scale.py [--soc SM8650]

Each network is calibrated, exported with the int32 biases that bitladder leaves out (export_int32_bias=True, AIMET's
default), and run tensor by tensor on the emulated NPU. Prints a Markdown table: the first layer that diverges from
QuantSim, the SQNR there and at the tensor before it, and the cause that is named.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bitladder.running import determinism

ROOT = Path(__file__).parents[1]

# net, weights, activations; torchvision's have random weights
CASES = (
    ("efficientnet_lite0", 8, 16),
    ("resnet18", 8, 16),
    ("shufflenet_v2_x0_5", 8, 16),
    ("efficientnet_lite0", 8, 8),
)
SIDE, CALIBRATION, SAMPLES = 64, 16, 2


def main() -> None:
    """Print a row a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soc", default="SM8650")
    given = parser.parse_args()
    determinism.pin(2)

    print("| net | precision | first layer that diverges | SQNR there, dB | before it | cause that it names |")
    print("|---" * 6 + "|")
    for net, weights, activations in CASES:
        print(row(net, weights, activations, given.soc), flush=True)


def row(net: str, weights: int, activations: int, soc_name: str) -> str:
    """Export one network with AIMET's biases, and look for the gap."""
    from bitladder.export.checks import graph_names
    from bitladder.network.model import output_names, sample_inputs
    from bitladder.params import load_params
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.quantize.sim.sim import build_sim
    from bitladder.socs import find_soc
    from bitladder.targets.gap import find_gap, first_divergence

    soc, precision = find_soc(soc_name), Precision(weights, activations)
    model, split = network(net)
    sample = sample_inputs(split)
    prepared, _ = prepare(model, sample)
    sim = build_sim(prepared, sample, precision, soc.quantsim_config)
    sim.calibrate(split, CALIBRATION)
    with TemporaryDirectory() as folder:
        path, work = Path(folder) / "model.onnx", Path(folder) / "work"
        work.mkdir()
        names = graph_names(["image"], list(output_names(prepared) or ()))
        sim.export_qdq(sample, names, path, int32_bias=True)
        layers = find_gap(path, split.first(SAMPLES), soc, load_params(ROOT / "params.yaml").target, work)
    first = first_divergence(layers)
    if first is None:
        return f"| {net} | {precision} | none | | | |"
    before = next((f"{one.sqnr_db:.1f}" for one in reversed(layers[: layers.index(first)])), "-")
    cause = first.causes[0].text.split(":")[0] if first.causes else "none"
    return f"| {net} | {precision} | `{first.layer}` | {first.sqnr_db:.1f} | {before} | {cause} |"


def network(net: str) -> tuple[Any, Any]:
    """Give a network and samples for it: crops of photographs, or random images for random weights."""
    import torch
    from coverage import network as torchvision_net

    from bitladder.tasks.builtin.efficientnet_lite0 import network as efficientnet_lite0
    from bitladder.tasks.builtin.photographs import crops
    from bitladder.tasks.task import Split

    torch.manual_seed(0)
    if net == "efficientnet_lite0":
        return efficientnet_lite0().eval(), Split(
            {"image": crops("calibration", CALIBRATION, 0)}, torch.zeros(CALIBRATION)
        )
    images = torch.randn(CALIBRATION, 3, SIDE, SIDE)
    return torchvision_net(net, SIDE, images), Split({"image": images}, torch.zeros(CALIBRATION))


if __name__ == "__main__":
    main()

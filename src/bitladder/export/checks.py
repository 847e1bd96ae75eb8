"""What must hold of an exported graph before it is compiled."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.errors import RefusedError, UserError
from bitladder.network.evaluate import NoiseSums, TopOne, run_batch
from bitladder.network.outputs import Outputs
from bitladder.records import ExportCheck
from bitladder.tasks.onnx_file import open_session
from bitladder.tasks.onnx_model import run_samples
from bitladder.tasks.samples import Samples

__all__ = ["check_bias_scales", "check_outputs", "graph_names", "run_unoptimised", "wrong_bias_scales"]

BIASED = {"Conv", "ConvTranspose", "Gemm"}

SCALE_TOLERANCE = 1e-3  # relative; float32 products differ by 1e-7, a wrong scale by orders of magnitude


def graph_names(inputs: list[str], outputs: list[str]) -> tuple[list[str], list[str]]:
    """Names of the exported graph's inputs and outputs. Raise UserError where one name stands for both."""
    if both := sorted(set(inputs) & set(outputs)):
        raise UserError(f"task: {both[0]!r} names an input and an output of the model; rename one of them")
    return inputs, outputs


def check_bias_scales(path: Path) -> None:
    """Refuse a graph whose integer biases are not in units of input scale x weight scale.

    Runtimes read an int32 bias in those units whatever scale stands beside it, so any other scale makes the layer
    give wrong outputs, in silence. Float biases, and integer ones with the right scale, pass.

    Raises RefusedError that names the first such layer and how many there are.
    """
    wrong = wrong_bias_scales(path)
    if wrong:
        raise RefusedError(
            f"{path}: the integer bias of {wrong[0]} ({len(wrong)} layers in all) is not in units of input scale x"
            " weight scale, so outputs of the NPU would be wrong; export with int32_bias=False: they stay in float"
        )


def wrong_bias_scales(path: Path) -> list[str]:
    """Name the layers of a graph whose integer biases are not in units of input scale x weight scale."""
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}

    def scale_of(tensor: str) -> np.ndarray | None:
        node = producer.get(tensor)
        if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in constants:
            return None
        return numpy_helper.to_array(constants[node.input[1]])

    wrong: list[str] = []
    for node in graph.node:
        if node.op_type not in BIASED or len(node.input) < 3:
            continue
        bias, inputs, weights = scale_of(node.input[2]), scale_of(node.input[0]), scale_of(node.input[1])
        if bias is None:
            continue
        if inputs is None or weights is None or not np.allclose(bias, inputs * weights, SCALE_TOLERANCE, 0):
            wrong.append(node.name)
    return wrong


def run_unoptimised(path: Path, split: Samples) -> Outputs:
    """Run a few samples through ONNX Runtime's CPU provider one at a time, optimisations off."""
    run = _unoptimised(path)
    parts = [run(inputs) for inputs, _ in tqdm(split.batches(1), "check", len(split), leave=False, unit="sample")]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _unoptimised(path: Path) -> Callable[[Mapping[str, Tensor]], Outputs]:
    """Give what runs a batch, sample by sample."""
    session = open_session(str(path))
    names = [output.name for output in session.get_outputs()]
    # an input that the network does not use is not in its graph
    taken = [one.name for one in session.get_inputs()]
    return lambda inputs: run_samples(session.run, taken, names, tuple(inputs[name] for name in taken))


def check_outputs(
    path: Path, samples: Samples, simulated: nn.Module, batch_size: int, min_sqnr_db: float
) -> ExportCheck:
    """Refuse a graph whose outputs are not its QuantSim's.

    Args:
        path: of the graph.
        samples: to compare on.
        simulated: the QuantSim's network.
        batch_size: samples at a time through it.
        min_sqnr_db: the limit, export.min_sqnr_db in params.yaml.

    Returns: a metrics/export record. Raises RefusedError with the figures.

    """
    run, noise, top = _unoptimised(path), NoiseSums(), TopOne()
    simulated.eval()
    with torch.no_grad(), tqdm(total=len(samples), desc="check", unit="sample", leave=False) as bar:
        for inputs, targets in samples.batches(batch_size):
            expected, outputs = run_batch(simulated, inputs), run(inputs)
            noise.add(expected, outputs)
            top.add(expected, outputs, targets)
            bar.update(len(next(iter(inputs.values()))))
    found = noise.decibels()
    if not found >= min_sqnr_db:
        raise RefusedError(
            f"{path}: outputs differ from the QuantSim's: {found:.1f} dB on {len(samples)} samples, and"
            f" export.min_sqnr_db is {min_sqnr_db:g}, so it is not compiled; it is not what was simulated, or the"
            " rung is so coarse (its SQNR against FP32 tells) that roundings which fall otherwise matter as much"
        )
    return ExportCheck(samples=len(samples), sqnr_db=found, agreement=top.share())

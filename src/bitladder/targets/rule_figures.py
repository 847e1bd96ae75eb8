"""What a rule of htp/ is worth: its tiny network on the NPU, as exported and as repaired, against the simulation."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import nn

from bitladder.errors import UserError
from bitladder.export.checks import graph_names, run_unoptimised
from bitladder.export.fp16 import HalfPrecision, export_fp16
from bitladder.htp.repair import repair
from bitladder.htp.rule import Example, Rule
from bitladder.network.evaluate import Outputs, predict, sqnr_db
from bitladder.network.model import sample_inputs
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.socs import Soc
from bitladder.targets.backend import CONTEXT_FILE, compile_context, run_batch
from bitladder.targets.plain_qdq import quantize_plainly
from bitladder.targets.pool import Pool
from bitladder.targets.probe import PROBED
from bitladder.targets.workers import result
from bitladder.tasks.task import Split

__all__ = ["OnNpu", "RuleFigures", "measure_rule"]

SAMPLES = 2  # that are emulated

LIMIT_S = 60.0


@dataclass(frozen=True)
class OnNpu:
    """A graph on the NPU: SQNR against the simulation in dB, bytes of the context binary, ops."""

    sqnr_db: float
    memory_bytes: int
    ops: int


@dataclass(frozen=True)
class RuleFigures:
    """A rule's network before and after its repair; None where the NPU refuses it.

    `same_db`: SQNR of the repaired graph's own outputs against the graph's before, on the CPU.
    """

    before: OnNpu | None
    after: OnNpu | None
    same_db: float


def measure_rule(rule: Rule, precision: str, soc: Soc, pool: Pool) -> RuleFigures | None:
    """Quantize a rule's network, export it, and run it on a SoC's NPU without and with the repair.

    Returns: None where the rule does not concern it on this SoC.
    """
    torch.manual_seed(0)
    network, inputs = rule.example.build()
    network.eval()
    split = Split({f"x{index}": values for index, values in enumerate(inputs)}, torch.zeros(len(inputs[0])))
    few, half = split.first(SAMPLES), precision == "FP16"
    with TemporaryDirectory() as folder:
        plain, repaired = Path(folder) / "plain.onnx", Path(folder) / "repaired.onnx"
        _export(network, split, precision, soc, plain, rule.example)
        proto = onnx.load(plain)
        if not repair(proto, soc, [rule.name]):
            return None
        onnx.save(proto, repaired)
        simulated = run_unoptimised(plain, few)
        expected = predict(HalfPrecision(network), few, SAMPLES, "") if half else simulated
        return RuleFigures(
            _on_npu(plain, few, expected, soc, half, pool),
            _on_npu(repaired, few, expected, soc, half, pool),
            sqnr_db(simulated, run_unoptimised(repaired, few)),
        )


def _export(network: nn.Module, split: Split, precision: str, soc: Soc, path: Path, example: Example) -> None:
    sample, names, bits = sample_inputs(split), graph_names(list(split.inputs), ["y"]), PROBED[precision]
    if bits is None:
        export_fp16(HalfPrecision(network), sample, names, path)
        return
    if example.writer == "plain":
        quantize_plainly(network, split, names, bits, path)
        return
    sim = build_sim(prepare(network, sample)[0], sample, Precision(*bits), soc.quantsim_config)
    sim.set_layers({name: Precision(*own) for name, own in example.layers.items()})
    sim.set_blocks(example.weights_block)
    sim.calibrate(split, len(split))
    sim.export_qdq(sample, names, path, int32_bias=example.writer == "aimet")


def _on_npu(model: Path, split: Split, expected: Outputs, soc: Soc, half: bool, pool: Pool) -> OnNpu | None:
    limit = f"{LIMIT_S:g} s"
    with TemporaryDirectory() as name:
        job = (str(model), name, soc.soc_model, half)
        try:
            placed = result(pool.schedule(compile_context, args=job, timeout=LIMIT_S), "it", limit, Path(name))
        except UserError:
            return None
        if placed["cpu"]:
            return None
        (binary,) = Path(name).glob("*.bin")
        size = binary.stat().st_size
        jobs = [(f"{name}/{CONTEXT_FILE}", soc.soc_model, half, split.row(index)) for index in range(len(split))]
        rows = [pool.schedule(run_batch, args=one, timeout=LIMIT_S).result() for one in jobs]
    outputs = {key: torch.cat([torch.from_numpy(row[key]) for row in rows]) for key in rows[0]}
    return OnNpu(sqnr_db({"y": next(iter(expected.values()))}, {"y": outputs["y"]}), size, len(placed["npu"]))

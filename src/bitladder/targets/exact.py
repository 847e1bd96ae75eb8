"""A model of the NPU's integers: proved on the samples that the emulator ran, it runs all others, without emulating."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from bitladder.errors import UserError
from bitladder.htp.arithmetic.executor import Executor
from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import OLD
from bitladder.network.evaluate import TopOne
from bitladder.network.outputs import Outputs, StoredOutputs
from bitladder.network.scoring import score_outputs
from bitladder.params import TargetParams
from bitladder.records import Emulated, Exact, Measurement
from bitladder.socs import Soc
from bitladder.statistics.scores import FP32, NETWORK, SIMULATION, Scores
from bitladder.targets.context import compile_model, run
from bitladder.targets.target import Job
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Samples

__all__ = ["BATCH", "Whole", "prove", "run_whole"]

LEAST_EQUAL = 0.99
"""Share of the outputs' integers that must be equal, with all classes, for the model's figures to be used."""

BATCH = 4
"""Samples that are run at once. With more, most of the time goes into memory that the system has to give again."""


@dataclass(frozen=True)
class Whole:
    """All samples of the evaluation split, and the scores of the rung on them off target."""

    samples: Samples
    scores: Mapping[str, Scores]


def prove(job: Job, outputs: StoredOutputs, soc: Soc, settings: TargetParams) -> tuple[Exact, Executor | None]:
    """Hold a model of the NPU against what the emulator gave for the job's samples.

    Returns: what comes of it, which is not `used` yet, and the model where it may be.
    """
    if soc.arch in OLD:
        return _none(f"the arithmetic of {soc.arch} is not known; that of v73 to v81 is"), None
    proto = onnx.load(job.model)
    try:
        executor = Executor(proto)
        equal, near, classes, differs = _compare(executor, Graph(proto), job.split, outputs)
    except Exception as error:  # ONNX Runtime's kinds of error share no base; what only checks must not cost the stage
        return _none(f"no model of this graph: {' '.join(str(error).split())[:200]}"), None
    trusted = equal >= LEAST_EQUAL and classes in (1.0, None)
    shown = f"{equal:.3%} of the outputs' integers are equal, {near:.3%} within one step"
    shown += "" if classes is None else f", {classes:.1%} of classes"
    found = Exact(
        samples=len(job.split),
        equal_integers=equal,
        within_one_step=near,
        equal_classes=classes,
        float_ops=executor.float_ops,
        first_difference=None if differs is None else _first_difference(executor, job, differs, soc, settings),
        used=False,
        reason=shown + ("" if trusted else f"; {LEAST_EQUAL:.0%} and all classes must be"),
    )
    return found, executor if trusted else None


def _none(reason: str) -> Exact:
    return Exact(samples=0, used=False, reason=reason)


def run_whole(
    executor: Executor, whole: Whole, metric: Metric, proof: Exact, record: Measurement, work: Path
) -> tuple[Measurement, dict[str, Scores]]:
    """Run the whole split through a model that was proved; give the record and scores of all samples.

    What has added up is kept in `work`, so that a killed pass goes on where it was.
    """
    scored = score_outputs(executor, whole.samples, metric, BATCH, "exact", work=work)
    simulation = whole.scores[NETWORK]
    value = scored.comparison.value
    assert record.value is not None and record.drop is not None and record.gap is not None
    own = Emulated(samples=record.samples, value=record.value, drop=record.drop, gap=record.gap)
    changes = {
        "samples": len(whole.samples),
        "value": value,
        "drop": metric.drop(whole.scores[FP32].total, value),
        "reference_value": simulation.total,
        "gap": abs(metric.drop(simulation.total, value)),
        "exact": proof.model_copy(update={"used": True, "emulated": own}),
    }
    return record.model_copy(update=changes), {SIMULATION: simulation, NETWORK: scored.scores}


def _compare(
    executor: Executor, graph: Graph, split: Samples, outputs: StoredOutputs
) -> tuple[float, float, float | None, int | None]:
    """Give the shares of the outputs' integers that are equal, and within one step; of equal classes; what differs.

    The last is the first sample with an integer that is not equal.
    """
    top, done, equal, near, values = TopOne(), 0, 0, 0, 0
    differs: int | None = None
    for inputs, targets in split.batches(BATCH):
        found = executor(inputs)
        stop = done + len(next(iter(inputs.values())))
        expected = outputs.read(done, stop)
        top.add(expected, found, targets)
        for name, own in found.items():
            quantizer = graph.find_quantizer(name)
            apart = (_integers(own, quantizer) - _integers(expected[name], quantizer)).abs()
            same = apart == 0
            equal, values = equal + int(same.sum()), values + same.numel()
            near += int((same if quantizer is None else apart <= 1).sum())
            if differs is None and not same.all():
                differs = done + int(same.reshape(len(same), -1).all(1).logical_not().nonzero()[0])
        done = stop
    return equal / values, near / values, top.share(), differs


def _integers(values: Tensor, quantizer: Quantizer | None) -> Tensor:
    """Give the integers behind an output; one in float stays as it is."""
    return values if quantizer is None else torch.round(values.double() / quantizer.step)


def _first_difference(executor: Executor, job: Job, sample: int, soc: Soc, settings: TargetParams) -> str | None:
    """Name the first op whose integers are not the emulator's, on a sample; None where none is found."""
    proto, one = onnx.load(job.model), job.split.subset([sample])
    graph, watched = Graph(proto), dict[str, tuple[str, Quantizer]]()
    modelled = {name for step in executor.steps if step.op != "QuantizeLinear" for name in step.makes}
    for node in graph.of_type("QuantizeLinear"):
        if node.output[0] in modelled and (quantizer := graph.quantizer_of(node)) is not None:
            name = f"bitladder_exact_{len(watched)}"
            watched[node.output[0]] = name, quantizer
            shown = helper.make_node("DequantizeLinear", [node.output[0], *node.input[1:3]], [name], name)
            shown.domain = node.domain
            proto.graph.node.append(shown)
            proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    work = job.workspace / "exact"
    work.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.shape_inference.infer_shapes(proto), work / "watched.onnx")
    with suppress(UserError):  # a graph with so many outputs is not what was compiled before
        compiled = compile_model(work / "watched.onnx", work / "compiled", soc, False, settings.compile_limit_s, work)
        emulated: Outputs = run(compiled, soc, False, one, settings, work)
        inputs, _ = next(one.batches(1))
        for step, values in executor.trace(inputs):
            for made in step.makes:
                if made in watched:
                    name, quantizer = watched[made]
                    expected = _integers(emulated[name], quantizer) + int(quantizer.zero_point)
                    if not torch.equal(values[made].double(), expected):
                        return f"{step.op} {step.node}"
    return None

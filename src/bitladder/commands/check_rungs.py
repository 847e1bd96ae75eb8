"""FP16, the W16A16 check and every rung, each tried on a few samples: quantized, exported, compiled, run once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from bitladder.errors import RefusedError, UserError
from bitladder.export.checks import check_bias_scales, check_outputs, graph_names
from bitladder.export.float_tensors import check_float, find_float
from bitladder.export.fp16 import FiniteHalf, HalfPrecision, export_fp16
from bitladder.export.layers import note_layers
from bitladder.export.repairs import repair_file
from bitladder.network.evaluate import Outputs, compare, predict, sqnr_db
from bitladder.network.lines import lines_kept
from bitladder.network.model import output_names, sample_inputs
from bitladder.params import Params
from bitladder.quantize.sim.sim import build_sim
from bitladder.quantize.verify import verify
from bitladder.running.explain import refusing
from bitladder.targets.context import compile_model, run_stored
from bitladder.targets.workers import LocalPool, worker_pool
from bitladder.tasks.task import Split, Task

__all__ = ["Setting", "try_rungs"]

Lines = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Setting:
    """What is tried: the task's network as it came and as it is prepared, a few samples, and its outputs on them."""

    params: Params
    task: Task
    model: nn.Module
    prepared: nn.Module
    few: Split
    expected: Outputs

    @property
    def sample(self) -> tuple[Tensor, ...]:
        """The first sample as a batch of one."""
        return sample_inputs(self.few)

    @property
    def batch(self) -> int:
        """All samples at once, unless params.yaml asks for smaller batches."""
        return min(len(self.few), self.params.evaluate.batch_size)

    def score(self, outputs: Outputs) -> float:
        """Try the metric on outputs; give their SQNR in dB."""
        compare(self.task.metric, outputs, self.expected, self.few.targets)
        return sqnr_db(self.expected, outputs)


def try_rungs(setting: Setting) -> Lines:
    """Give a step and what was found, as each ends; what `dvc repro` would refuse is a step `refused`.

    Raises UserError at the end where a rung of the ladder would be refused.
    """
    params = setting.params
    refused: list[str] = []
    with TemporaryDirectory() as folder, ExitStack() as opened:
        npu = _Npu(setting, Path(folder), opened)
        yield from _tried("fp16", partial(_fp16, setting, npu), [])
        yield from _tried("W16A16", partial(_w16a16, setting), refused)
        if refused:
            raise UserError("`dvc repro` would refuse every rung of the ladder, as W16A16 must agree with FP32")
        alike: dict[tuple, list[str]] = {}  # rungs of the same bits differ in what is done to them, not in their graphs
        for rung in params.rungs():
            own = params.ladder[rung]
            alike.setdefault((own.precision, own.weights_block, *own.layer_precisions.items()), []).append(rung)
        for rungs in alike.values():
            yield from _tried(", ".join(rungs), partial(_rung, setting, npu, rungs[0]), refused)
    if refused:
        raise UserError(f"`dvc repro` would refuse of the ladder's rungs: {', '.join(refused)}")


def _tried(what: str, steps: Callable[[Path], Lines], refused: list[str]) -> Lines:
    with TemporaryDirectory() as folder:
        try:
            with refusing(f"check-{what}"):
                yield from steps(Path(folder))
        except UserError as error:
            # the graph lies in a folder that is gone by then
            yield "refused", f"{what}: {str(error).replace(f'{folder}/', '')}"
            refused.append(what)


def _fp16(setting: Setting, npu: "_Npu", folder: Path) -> Lines:
    half, path = HalfPrecision(setting.model), folder / "model.onnx"
    outputs = predict(FiniteHalf(half), setting.few, setting.batch, "fp16")
    yield "fp16", f"{setting.score(outputs):.1f} dB against FP32"
    export_fp16(half, setting.sample, graph_names(list(setting.few.inputs), list(outputs)), path)
    repair_file(path, setting.params.soc, setting.params.export.rules)
    if "FP16" in setting.params.soc.takes:
        yield "target", npu.run(path, outputs, "the module")
    else:
        yield "target", f"{setting.params.soc.name} does not take FP16"


def _w16a16(setting: Setting, folder: Path) -> Lines:
    result = verify(setting.prepared, setting.task.metric, setting.few, setting.model, setting.params)
    yield "W16A16", f"{result.sqnr_db:.1f} dB against FP32"


def _rung(setting: Setting, npu: "_Npu", rung: str, folder: Path) -> Lines:
    params, few, path = setting.params, setting.few, folder / "model.onnx"
    own = params.ladder[rung]
    sim = build_sim(setting.prepared, setting.sample, own.precision, params.soc.quantsim_config)
    if own.layers:
        sim.set_layers(own.layer_precisions)
    sim.set_blocks(own.weights_block)
    sim.calibrate(few, setting.batch)
    simulated = predict(sim.model, few, setting.batch, "sim")
    yield str(own.precision), f"{rung}: {setting.score(simulated):.1f} dB against FP32"
    names = graph_names(list(few.inputs), list(output_names(setting.prepared) or simulated))
    sim.export_qdq(setting.sample, names, path)
    note_layers(path, sim.model, lines_kept(setting.prepared))
    sim.export_encodings(setting.sample, names, folder / "aimet")
    check_bias_scales(path)
    repair_file(path, params.soc, params.export.rules)
    found = check_outputs(path, few, sim.model, setting.batch, params.export.min_sqnr_db)
    yield "export", f"{found.sqnr_db:.1f} dB against the QuantSim"
    in_float = find_float(path)
    check_float(in_float, params.export.allow_float, rung)
    yield "float", f"{in_float.share}: {in_float}" if in_float.tensors else "every tensor has its quantizer"
    yield "target", npu.run(path, simulated, "the QuantSim")


class _Npu:
    """The emulated NPU, in a process that is started once it is needed."""

    def __init__(self, setting: Setting, workspace: Path, opened: ExitStack) -> None:
        self._setting, self._workspace, self._opened = setting, workspace, opened

    @cached_property
    def _pool(self) -> LocalPool:
        return self._opened.enter_context(worker_pool(1, self._workspace))

    def run(self, path: Path, simulated: Outputs, reference: str) -> str:
        """Compile a graph and run one sample: no metric can be told of that, so the limit is the export's."""
        params, fp16, work = self._setting.params, reference != "the QuantSim", path.parent / "work"
        soc, limit_s, one = params.soc, params.target.compile_limit_s, self._setting.few.first(1)
        compiled = compile_model(path, path.parent / "target", soc, fp16, limit_s, work, self._pool)
        outputs = run_stored(compiled, soc, fp16, one, params.target, work, self._pool).whole()
        found = sqnr_db({name: values[:1] for name, values in simulated.items()}, outputs)
        if not found >= (least := params.export.min_sqnr_db):
            raise RefusedError(
                f"the NPU of {soc.name} diverges from {reference}: {found:.1f} dB, and export.min_sqnr_db is {least:g}"
            )
        size = f"{compiled.memory_bytes:,} bytes"
        return f"{compiled.ops_npu} ops, all on the NPU of {soc.name}, {size}; {found:.1f} dB against {reference}"

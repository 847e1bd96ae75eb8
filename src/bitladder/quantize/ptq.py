"""Post-training quantization of one rung: the techniques that params.yaml lists, or the cheapest that is enough."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from torch import nn

from bitladder.errors import UserError
from bitladder.network.evaluate import Comparison
from bitladder.network.model import sample_inputs
from bitladder.network.scoring import reference_of
from bitladder.network.scoring import score as score_pass
from bitladder.params import Params
from bitladder.paths import PREPARED, TASK, TRAINED, RungFiles, samples
from bitladder.quantize.mixed import raise_layers
from bitladder.quantize.prepare.prepare import load_prepared, load_unfolded
from bitladder.quantize.techniques.technique import ORDER, NotApplicable, Quantized, Setting, apply
from bitladder.records import Try
from bitladder.running.files import write_json
from bitladder.running.resume import fingerprint, workspace
from bitladder.tasks.metric import Metric
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.samples import Samples, held
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import Task

__all__ = ["divide", "quantize", "quantize_rung"]

Score = Callable[[nn.Module], Comparison]


def quantize_rung(params: Params, rung: str, task: Task) -> tuple[Quantized, nn.Module, list[Try], dict[str, str]]:
    """Quantize a rung from what the stages before have left in build/.

    Returns: the quantized network; the prepared network in FP32; what was tried; the layers of a mixed rung that were
    given more bits. The seconds of each try go to build/notes/<rung>/ptq-seconds.json, which is no output of DVC's,
    since they are never twice the same.
    """
    calibration = load_samples(task, params, "calibration")
    own, sample, exclude = params.ptq_of(rung), sample_inputs(calibration), params.prepare.exclude
    fit, rest = map(held, divide(calibration, params, rung))
    model = load_prepared(task, sample, PREPARED, exclude)
    if isinstance(model, OnnxNetwork) and (params.ladder[rung].mixed or params.ladder[rung].layers):
        raise UserError(f"ladder.{rung}: mixed and layers need a network of PyTorch's, and the model came as ONNX")
    inputs = (PREPARED, TRAINED, samples("calibration"), TASK)
    config, seed = params.soc.quantsim_config, params.seed
    key = fingerprint(params.task, params.prepare, params.compute, params.ladder[rung], own, config, seed, files=inputs)
    with workspace(f"ptq-{rung}", key) as work:
        setting = Setting(
            model=model,
            unfolded=lambda: load_unfolded(task, sample, TRAINED, PREPARED, exclude),
            sample=sample,
            fit=fit,
            precision=params.ladder[rung].precision,
            config=config,
            params=own,
            seed=seed,
            work=work,
            layers=params.ladder[rung].layer_precisions,
        )
        score = _scorer(task.metric, model, rest, params.evaluate.batch_size, work) if len(rest) else None
        quantized, tries, seconds = quantize(setting, score)
        raised: dict[str, str] = {}
        if mixed := params.ladder[rung].mixed:
            assert score is not None
            quantized, raised = raise_layers(quantized, setting, mixed, score)
    write_json(RungFiles(rung).notes / "ptq-seconds.json", seconds)
    return quantized, model, tries, raised


def quantize(setting: Setting, score: Score | None = None) -> tuple[Quantized, list[Try], dict[str, float]]:
    """Quantize a prepared network by `setting.params.techniques`.

    A list is applied in its order. `auto` goes through all from cheap to costly, keeps what makes the score better, and
    stops as soon as the drop is within max_drop.

    Args:
        setting: what to quantize, and how.
        score: compares a sim with FP32 on samples that no technique has seen; `auto` needs it.

    Returns: the quantized network, what was tried, and the seconds of each.

    """
    auto = setting.params.techniques == "auto"
    names = ORDER if auto else tuple(setting.params.techniques)
    best: Quantized | None = None
    standing: Comparison | None = None
    tries, seconds = [], {}
    for name in names:
        start = perf_counter()
        try:
            candidate = apply(name, setting, best)
        except NotApplicable as reason:
            tries.append(Try(technique=name, kept=False, not_applicable=str(reason)))
            continue
        found = score(candidate.sim.model) if score else None
        kept = not auto or standing is None or (found is not None and _rank(found) > _rank(standing))
        if found:
            tries.append(Try(technique=name, value=found.value, drop=found.drop, sqnr_db=found.sqnr_db, kept=kept))
        else:
            tries.append(Try(technique=name, kept=kept))
        seconds[name] = round(perf_counter() - start, 1)
        if kept:
            best, standing = candidate, found
        if auto and standing and standing.drop <= setting.params.max_drop:
            break
    if best is None:  # all that was listed can do nothing here
        best = apply(ORDER[0], setting, None)
    return best, tries, seconds


def _rank(found: Comparison) -> tuple[float, float]:
    assert found.sqnr_db is not None
    return -found.drop, found.sqnr_db


def divide(calibration: Samples, params: Params, rung: str) -> tuple[Samples, Samples]:
    """Give the samples that a rung's techniques are fitted to, and those that they are scored on.

    Raises UserError where none are left to score on, and the rung's params ask for scores.
    """
    own = params.ptq_of(rung)
    rest = calibration.after(own.samples)
    if not len(rest) and (own.techniques == "auto" or params.ladder[rung].mixed):
        raise UserError(
            f"ptq.samples: {own.samples} leaves none of the {len(calibration)} calibration samples to score {rung} on;"
            " lower it, or give the task a larger calibration split"
        )
    return calibration.first(own.samples), rest


def _scorer(metric: Metric, model: nn.Module, samples: Samples, batch_size: int, work: Path) -> Score:
    reference = reference_of(model, samples, batch_size, work / "fp32")

    def score(sim: nn.Module) -> Comparison:
        return score_pass(sim, samples, metric, batch_size, "score", reference).comparison

    return score

"""Making a network fit for AIMET: its model guidelines as a gate, then batch norms folded away."""

import copy
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.common.utils import AimetLogger
from aimet_torch.meta.connectedgraph_utils import get_ops_with_missing_modules
from aimet_torch.model_validator.model_validator import ModelValidator
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.network.lines import keep_lines, lines_kept, module_lines
from bitladder.network.model import build_model, build_network, keep_folded, keep_output_names, load_weights
from bitladder.precision import OPSET
from bitladder.quantize.prepare.layouts import bake_weights, split_groups, swap_layers
from bitladder.quantize.prepare.norms import fold_others, ready_norms
from bitladder.quantize.prepare.onnx_prepare import prepare_onnx
from bitladder.quantize.prepare.recurrent import unroll
from bitladder.quantize.prepare.rewrite import rewrite as rewrite_calls
from bitladder.quantize.prepare.task_quantization import define, keep_task_quantization
from bitladder.quantize.prepare.tracing import untraceable
from bitladder.running.files import load_note, load_tensors, save_tensors
from bitladder.tasks.onnx_forms.graph import opset_of
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.source import user_code
from bitladder.tasks.task import Quantization, Task, flatten_outputs, name_outputs

__all__ = ["Preparation", "check_equal", "load_prepared", "load_unfolded", "prepare", "save_prepared"]


# AIMET reports its progress as warnings and worse; what matters of it we say ourselves.
AimetLogger.set_level_for_all_areas(logging.CRITICAL)

REWRITTEN, AS_IT_CAME, OF_ONNX = "prepared for AIMET", "as it came", "ONNX, prepared for aimet-onnx"

EQUAL_SQNR_DB = 60.0  # folding and rewriting reorder float32 sums, which leaves well over 100 dB


@dataclass(frozen=True)
class Preparation:
    """What was done to a network: whether it was rewritten; ops left without quantizers on request.

    `onnx`: it came as ONNX, which the decision knows by that, of this `opset`. `exported`: torch.export
    traced it, since torch.fx could not.
    """

    rewritten: bool
    unquantized: tuple[str, ...] = ()
    onnx: bool = False
    opset: int = OPSET
    exported: bool = False

    def __bool__(self) -> bool:
        """Tell whether the network was rewritten."""
        return self.rewritten

    def __str__(self) -> str:
        """Say it as the technique of the FP32 record."""
        done = OF_ONNX if self.onnx else REWRITTEN if self.rewritten else AS_IT_CAME
        if self.opset < OPSET:
            done += f", opset {self.opset} raised to {OPSET} by onnx's version converter"
        if self.exported:
            done += " from torch.export's graph, as torch.fx cannot trace it"
        return f"{done}, no quantizers for {', '.join(self.unquantized)}" if self.unquantized else done


def prepare(
    model: nn.Module,
    sample: tuple[Tensor, ...],
    exclude: Sequence[str] = (),
    quantization: Quantization | None = None,
    fold: bool = True,
    rewrite: bool | None = None,
) -> tuple[nn.Module, Preparation]:
    """Make a trained network fit for quantization, and say what was done.

    A network that breaks AIMET's guidelines (reused modules, functional calls, `+`) builds a QuantSim all the same,
    with quantizers missing. So it is rewritten by the preparer where it breaks them, and refused, with AIMET's own
    findings, where it still does. Batch norms are folded into the layers before them. A dict that the network gives
    becomes a tuple, which AIMET can trace; so do nested ones. Their names are kept on the network.

    Args:
        model: in evaluation mode.
        sample: a batch of one, as the model takes it.
        exclude: names of modules that the preparer does not look into; functional calls in them get no quantizers.
        quantization: the task's own settings for AIMET. Modules with quantized definitions of its own are not looked
            into either.
        fold: whether to fold batch norms.
        rewrite: whether AIMET's preparer rewrites it, where that is known from the first time: its guidelines, which
            take as long as all else here, are then not asked.

    Returns: the network in evaluation mode; what was done to it.

    """
    if isinstance(model, OnnxNetwork):
        return prepare_onnx(model, sample, exclude, quantization or Quantization()), Preparation(
            False, onnx=True, opset=opset_of(model.proto)
        )
    model.to("cpu")
    with torch.no_grad():
        names = tuple(name_outputs(model(*sample)))
    lines = module_lines(model, sample)
    _flatten_outputs(model, sample)
    quantization = quantization or Quantization()
    bake_weights(model)
    called = swap_layers(model)
    left = _modules_called(model, exclude) + define(model, quantization)
    preparation = Preparation(False)
    if (called or _broken_guidelines(model, sample, left)) if rewrite is None else rewrite:
        may_export = all(type(module).__module__.startswith(("torch.nn.", "aimet_torch.")) for module in left)
        try:
            model, exported = rewrite_calls(model, sample, left, may_export)
        except Exception as error:  # torch.fx raises many kinds: each means that the network cannot be traced
            raise UserError(untraceable(model, error)) from None
        left = _modules_called(model, exclude) + define(model, quantization)
        if rewrite is None and (findings := _broken_guidelines(model, sample, left)):
            raise UserError(f"task: the model breaks AIMET's guidelines, and its preparer does not help: {findings}")
        preparation = Preparation(True, exported=exported)
    if exclude:
        preparation = replace(preparation, unquantized=_functional_ops(model, sample, define(model, quantization)))
    with user_code("folding batch norms into the model"):
        folded = False
        if fold:
            ready_norms(model)
            others = fold_others(model, sample)
            folded = _fold(model, sample) or others
        split_groups(model)
        unroll(model, sample)
    keep_folded(model, folded)
    keep_lines(model, lines | lines_kept(model))
    keep_output_names(model, names)
    keep_task_quantization(model, quantization)
    return model.eval(), preparation


def _fold(model: nn.Module, sample: tuple[Tensor, ...]) -> bool:
    """Fold batch norms, and say whether there were any; none where one stands for channels that its layer has not."""
    try:
        fold_all_batch_norms(copy.deepcopy(model), None, dummy_input=sample)
    except ValueError:  # of a norm over tokens before a linear layer, AIMET takes the tokens for features
        return False
    return bool(fold_all_batch_norms(model, None, dummy_input=sample))


def check_equal(found_db: float) -> None:
    """Refuse a prepared network whose outputs are not the user's; by their SQNR. Raises UserError with it."""
    if found_db < EQUAL_SQNR_DB:
        raise UserError(
            f"task: made ready for AIMET, the model answers otherwise than before ({found_db:.1f} dB); does its forward"
            " depend on the values or the shape of its input?"
        )


def save_prepared(path: Path, model: nn.Module, preparation: Preparation) -> None:
    """Save the weights of the network that `prepare` gave, and what was done to it."""
    save_tensors(path, model.state_dict(), REWRITTEN if preparation else AS_IT_CAME)


def load_prepared(task: Task, sample: tuple[Tensor, ...], prepared: Path, exclude: Sequence[str] = ()) -> nn.Module:
    """Rebuild the network that `save_prepared` saved."""
    weights, rewrite = load_tensors(prepared), _was_rewritten(prepared)
    model, _ = prepare(build_network(task).eval(), sample, exclude, task.quantization, rewrite=rewrite)
    load_weights(model, weights, prepared)
    return model


def load_unfolded(
    task: Task, sample: tuple[Tensor, ...], weights: Path, prepared: Path, exclude: Sequence[str] = ()
) -> nn.Module:
    """Make the network fit for AIMET with its batch norms left as they are.

    Args:
        task: builds it.
        sample: a batch of one.
        weights: of the network as the task builds it, trained.
        prepared: what `save_prepared` saved of it.
        exclude: as for `prepare`.

    """
    rewrite = _was_rewritten(prepared)
    return prepare(build_model(task, weights), sample, exclude, task.quantization, fold=False, rewrite=rewrite)[0]


def _was_rewritten(prepared: Path) -> bool | None:
    return {REWRITTEN: True, AS_IT_CAME: False}.get(load_note(prepared) or "")


def _flatten_outputs(model: nn.Module, sample: tuple[Tensor, ...]) -> None:
    """Make a network give a tensor or a flat tuple: AIMET's tracer takes no dict. Its modules keep their names."""
    with torch.no_grad():
        returned = model(*sample)
    if isinstance(returned, Tensor) or (
        type(returned) in (list, tuple) and len(returned) > 1 and all(isinstance(value, Tensor) for value in returned)
    ):
        return
    own = type(model)

    # wraps: torch.fx reads the signature of the function that is wrapped
    @wraps(own.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(flatten_outputs(own.forward(self, *args, **kwargs)).values())

    model.__class__ = type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__})


def _modules_called(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    known = dict(model.named_modules())
    for name in names:
        if name not in known or not name:
            near = ", ".join(get_close_matches(name, known, 3, 0.3)) or ", ".join(list(known)[1:6])
            raise UserError(f"prepare.exclude: the model has no module {name!r}; near it are {near}")
    return [known[name] for name in names]


def _functional_ops(model: nn.Module, sample: tuple[Tensor, ...], defined: list[nn.Module]) -> tuple[str, ...]:
    ops = [op for op in get_ops_with_missing_modules(model, sample) if op.residing_module not in defined]
    names = {module: name for name, module in model.named_modules()}
    return tuple(sorted({f"{names.get(op.residing_module, '?')} ({op.type})" for op in ops}))


def _broken_guidelines(model: nn.Module, sample: tuple[Tensor, ...], left: list[nn.Module]) -> str:
    """Run AIMET's validator; give its findings in one line, empty if there are none."""
    with _recorded() as lines, user_code("tracing the model for AIMET"):
        valid = ModelValidator.validate_model(model, sample, layers_to_exclude=left)
    return "" if valid else _summary(" ".join(lines))


def _summary(findings: str) -> str:
    """Give the ops that the validator found, without its advice, which does not hold after the preparer."""
    ops = re.findall(r"(\S+); op_type: (\S+)\s+parent module: (\S+)", findings)
    if not ops:
        return " ".join(findings.split())[:500] or "AIMET's validator does not say which"
    kinds = ", ".join(sorted({kind for _, kind, _ in ops}))
    return (
        f"{len(ops)} functional calls that it knows no module for ({kinds}; the first is {ops[0][0]} in {ops[0][2]});"
        " write them in other words (reshape for view-like ones), or leave their module out by prepare.exclude"
    )


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """Collect what AIMET's validator logs as errors: it says nowhere else which layer it means."""
    lines: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = AimetLogger.get_area_logger(AimetLogger.LogAreas.Utils)
    recorder, level = Recorder(logging.ERROR), logger.level
    others, logger.handlers = logger.handlers, [recorder]
    propagate, logger.propagate = logger.propagate, False
    logger.setLevel(logging.ERROR)
    try:
        yield lines
    finally:
        logger.handlers, logger.propagate = others, propagate
        logger.setLevel(level)

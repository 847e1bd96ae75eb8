"""Making a network fit for AIMET: its model guidelines as a gate, then batch norms folded away."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.common.utils import AimetLogger
from aimet_torch.model_preparer import prepare_model
from aimet_torch.model_validator.model_validator import ModelValidator
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.evaluate import Outputs, sqnr_db
from bitladder.files import load_tensors
from bitladder.model import load_weights
from bitladder.tasks.task import Task

__all__ = ["check_equal", "load_prepared", "prepare"]


# AIMET reports its progress as warnings and worse; what matters of it we say ourselves.
AimetLogger.set_level_for_all_areas(logging.CRITICAL)

EQUAL_SQNR_DB = 60.0  # folding and rewriting reorder float32 sums, which leaves well over 100 dB


def prepare(model: nn.Module, sample: tuple[Tensor, ...]) -> tuple[nn.Module, bool]:
    """Make a trained network fit for quantization, and say whether AIMET's preparer had to rewrite it.

    A network that breaks AIMET's guidelines (reused modules, functional calls, `+`) builds a QuantSim all the same,
    with quantizers missing. So it is rewritten by the preparer where it breaks them, and refused, with AIMET's own
    findings, where it still does. Batch norms are folded into the layers before them.

    Returns: the network in evaluation mode; whether it was rewritten.
    """
    rewritten = False
    if _broken_guidelines(model, sample):
        try:
            model = prepare_model(model)
        except Exception as error:  # torch.fx raises many kinds: each means that the network cannot be traced
            reason = " ".join(str(error).split())
            raise UserError(f"task: AIMET cannot prepare the model ({type(error).__name__}: {reason})") from None
        rewritten = True
        if findings := _broken_guidelines(model, sample):
            raise UserError(f"task: the model breaks AIMET's guidelines, and its preparer does not help: {findings}")
    fold_all_batch_norms(model, None, dummy_input=sample)
    return model.eval(), rewritten


def check_equal(prepared: Outputs, outputs: Outputs) -> None:
    """Refuse a prepared network that does not answer as the user's does. Raises UserError with the SQNR."""
    found = sqnr_db(outputs, prepared)
    if found < EQUAL_SQNR_DB:
        raise UserError(
            f"task: made ready for AIMET, the model answers otherwise than before ({found:.1f} dB); does its forward"
            " depend on the values or the shape of its input?"
        )


def load_prepared(task: Task, sample: tuple[Tensor, ...], weights: Path) -> nn.Module:
    """Rebuild the network that `prepare` gave, with the weights that were saved of it."""
    model, _ = prepare(task.model().eval(), sample)
    load_weights(model, load_tensors(weights), weights)
    return model


def _broken_guidelines(model: nn.Module, sample: tuple[Tensor, ...]) -> str:
    """Run AIMET's validator; give its findings in one line, empty if there are none."""
    with _recorded() as lines:
        valid = ModelValidator.validate_model(model, sample)
    return "" if valid else " ".join(" ".join(lines).split()) or "AIMET's validator does not say which"


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

"""Metric, agreement and SQNR: the same code over any predictor (torch, QuantSim, ONNX Runtime, NPU).

Outputs of a split are held by name; each tensor's first dimension is the number of samples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.network.model import output_names
from bitladder.records import Evaluation
from bitladder.tasks.task import Metric, Split, name_outputs

__all__ = [
    "EQUAL_DB",
    "Comparison",
    "Outputs",
    "agreement",
    "compare",
    "decibels",
    "predict",
    "signal_and_noise",
    "sqnr_db",
]

Outputs = dict[str, Tensor]

EQUAL_DB = 200.0
"""Stands for equal outputs, whose SQNR has no number."""


@dataclass(frozen=True)
class Comparison:
    """How outputs stand against a reference on the same samples.

    `value` is the metric's and `drop` how much worse it is than the reference's; `agreement` the share of samples with
    the same top-1, None where the targets are no class indices. The reference itself has neither SQNR nor agreement.
    """

    value: float
    drop: float
    sqnr_db: float | None
    agreement: float | None
    samples: int

    def record(self, metric: Metric, technique: str, weights_bits: int, activations_bits: int) -> Evaluation:
        """Give what a metrics/eval/*.json file holds."""
        return Evaluation(
            metric=metric.name,
            higher_is_better=metric.higher_is_better,
            **asdict(self),
            technique=technique,
            weights_bits=weights_bits,
            activations_bits=activations_bits,
        )


def predict(model: nn.Module | Callable, split: Split, batch_size: int, title: str) -> Outputs:
    """Run a split through a model, batch by batch, with a progress bar; gradients are off."""
    device = torch.device("cpu")
    if isinstance(model, nn.Module):
        model.eval()
        device = next((values.device for values in model.parameters()), device)
    names = output_names(model)
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad(), tqdm(total=len(split), desc=title, unit="sample", leave=False) as bar:
        for batch in split.batches(batch_size):
            for name, value in name_outputs(model(*(values.to(device) for values in batch)), names).items():
                parts.setdefault(name, []).append(value.cpu())
            bar.update(len(batch[0]))
    return {name: torch.cat(values) for name, values in parts.items()}


def compare(metric: Metric, outputs: Outputs, reference: Outputs, targets: Tensor) -> Comparison:
    """Score outputs, and compare them with a reference's on the same samples."""
    value = metric(outputs, targets)
    return Comparison(
        value=value,
        drop=metric.drop(metric(reference, targets), value),
        sqnr_db=sqnr_db(reference, outputs),
        agreement=agreement(reference, outputs, targets),
        samples=len(targets),
    )


def sqnr_db(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float:
    """Signal to quantization noise over all outputs, in dB; the least one where there are several outputs.

    Integer outputs are compared by equality, see signal_and_noise.
    EQUAL_DB for equal outputs, and as much below zero where nothing of the signal is left: with NaN and infinity in it.
    """
    return min(_sqnr_db(reference[name], outputs[name]) for name in reference)


def _sqnr_db(reference: Tensor, output: Tensor) -> float:
    return decibels(*signal_and_noise(reference, output))


def signal_and_noise(reference: Tensor, output: Tensor) -> tuple[float, float]:
    """Give the energy of a tensor and that of its error, which add up over samples.

    Integers and booleans are names, not amounts: they are equal or not. The share of decisions that noise flips grows
    with its amplitude, not its energy, so it is squared: 1 of 100 unequal is 40 dB.
    """
    if not reference.is_floating_point():
        return float(reference.numel() ** 2), float((reference != output).sum().item() ** 2)
    signal = reference.double().square().sum().item()
    return signal, (reference.double() - output.double()).square().sum().item()


def decibels(signal: float, noise: float) -> float:
    """Give the ratio of two energies in dB, within EQUAL_DB of zero."""
    if noise == 0:
        return EQUAL_DB
    ratio = signal / noise if math.isfinite(noise) else 0.0
    return max(-EQUAL_DB, min(EQUAL_DB, 10 * math.log10(ratio))) if ratio > 0 else -EQUAL_DB


def agreement(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor], targets: Tensor) -> float | None:
    """Share of samples with the same top-1; None where the outputs are not one row of class scores a sample.

    That they are classes' is told by the targets, which then are class indices: the largest value of an embedding, or
    of several regressed values, means nothing.
    """
    if len(reference) != 1:
        return None
    (name,) = reference
    if reference[name].ndim != 2 or not _are_classes(targets, reference[name].shape[1]):
        return None
    return (reference[name].argmax(1) == outputs[name].argmax(1)).double().mean().item()


def _are_classes(targets: Tensor, classes: int) -> bool:
    """Whether targets are indices of so many classes, of which one is no choice."""
    if classes < 2 or targets.ndim != 1 or targets.is_floating_point() or targets.dtype == torch.bool:
        return False
    return bool(((targets >= 0) & (targets < classes)).all())

"""Metric, agreement and SQNR: the same code over any predictor (torch, QuantSim, ONNX Runtime, NPU).

Outputs of a split are held by name; each tensor's first dimension is the number of samples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.network.model import output_names
from bitladder.network.outputs import Outputs
from bitladder.network.placement import compute_device, placed
from bitladder.records import Evaluation
from bitladder.tasks.metric import Metric
from bitladder.tasks.outputs import name_outputs
from bitladder.tasks.samples import Samples

__all__ = [
    "EQUAL_DB",
    "Comparison",
    "NoiseSums",
    "Outputs",
    "TopOne",
    "agreement",
    "compare",
    "decibels",
    "predict",
    "run_all",
    "run_batch",
    "sqnr_db",
]

EQUAL_DB = 200.0
"""Stands for equal outputs, whose SQNR has no number."""

AT_A_TIME = 2**22
"""Values that are compared at a time: in double, and squared, they take several times their memory."""


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
            device="cuda" if compute_device().type == "cuda" else "cpu",
            technique=technique,
            weights_bits=weights_bits,
            activations_bits=activations_bits,
        )


def run_batch(model: nn.Module | Callable, inputs: Mapping[str, Tensor]) -> Outputs:
    """Run a batch where the model's parameters lie; give the outputs by name, on the CPU."""
    device = torch.device("cpu")
    if isinstance(model, nn.Module):
        device = next((values.device for values in model.parameters()), device)
    returned = model(*(values.to(device) for values in inputs.values()))
    return {name: value.cpu() for name, value in name_outputs(returned, output_names(model)).items()}


def predict(model: nn.Module | Callable, samples: Samples, batch_size: int, title: str) -> Outputs:
    """Give the outputs of samples in one, batch by batch, with a progress bar; for a few. Gradients are off."""
    if isinstance(model, nn.Module):
        placed(model)
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad(), tqdm(total=len(samples), desc=title, unit="sample", leave=False) as bar:
        for inputs, _ in samples.batches(batch_size):
            for name, value in run_batch(model, inputs).items():
                parts.setdefault(name, []).append(value)
            bar.update(len(next(iter(inputs.values()))))
    return {name: torch.cat(values) for name, values in parts.items()}


def run_all(model: nn.Module, samples: Samples, batch_size: int, title: str) -> None:
    """Run samples through a model for what that does to it: calibration. Outputs are not kept."""
    placed(model)
    with torch.no_grad(), tqdm(total=len(samples), desc=title, unit="sample", leave=False) as bar:
        for inputs, _ in samples.batches(batch_size):
            run_batch(model, inputs)
            bar.update(len(next(iter(inputs.values()))))


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

    Integer outputs are compared by equality, see NoiseSums.
    EQUAL_DB for equal outputs, and as much below zero where nothing of the signal is left: with NaN and infinity in it.
    """
    sums = NoiseSums()
    sums.add(reference, outputs)
    return sums.decibels()


class NoiseSums:
    """Signal and noise of outputs by name, as they add up over batches.

    Of floating-point tensors it is their energy and that of the error. Integers and booleans are names, not amounts:
    they are equal or not, and counted. The share of decisions that noise flips grows with its amplitude, not its
    energy, so the count is squared in the end: 1 of 100 unequal is 40 dB.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._counted: set[str] = set()

    def add(self, reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Take up a batch: of each tensor of the reference, the output of that name."""
        for name, expected in reference.items():
            rows = max(1, AT_A_TIME // max(1, expected[:1].numel()))
            for part, found in zip(expected.split(rows), outputs[name].split(rows), strict=True):
                self._add(name, part, found)

    def _add(self, name: str, expected: Tensor, found: Tensor) -> None:
        if expected.is_floating_point():
            exact = expected.double()
            signal, noise = exact.square().sum().item(), (exact - found.double()).square().sum().item()
        else:
            self._counted.add(name)
            signal, noise = float(expected.numel()), float((expected != found).sum().item())
        before = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = before[0] + signal, before[1] + noise

    def by_name(self) -> dict[str, float]:
        """Give the SQNR of each tensor in dB."""
        power = {name: 2 if name in self._counted else 1 for name in self._sums}
        return {name: decibels(a ** power[name], b ** power[name]) for name, (a, b) in self._sums.items()}

    def decibels(self) -> float:
        """Give the least SQNR, in dB."""
        return min(self.by_name().values())

    def state_dict(self) -> dict[str, Any]:
        """Give what a killed pass goes on from."""
        return {"sums": dict(self._sums), "counted": sorted(self._counted)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._sums, self._counted = dict(saved["sums"]), set(saved["counted"])


def decibels(signal: float, noise: float) -> float:
    """Give the ratio of two energies in dB, within EQUAL_DB of zero."""
    if noise == 0:
        return EQUAL_DB
    ratio = signal / noise if math.isfinite(noise) else 0.0
    return max(-EQUAL_DB, min(EQUAL_DB, 10 * math.log10(ratio))) if ratio > 0 else -EQUAL_DB


def agreement(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor], targets: Any) -> float | None:
    """Share of samples with the same top-1; None where the outputs are not one row of class scores a sample."""
    found = TopOne()
    found.add(reference, outputs, targets)
    return found.share()


class TopOne:
    """Samples with the same top-1 as the reference's, as they add up over batches.

    That outputs are classes' is told by the targets, which then are class indices: the largest value of an embedding,
    or of several regressed values, means nothing.
    """

    def __init__(self) -> None:
        self._same, self._samples, self._means_something = 0, 0, True

    def add(self, reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor], targets: Any) -> None:
        """Take up a batch."""
        expected = next(iter(reference.values()))
        if len(reference) != 1 or expected.ndim != 2 or not _are_classes(targets, expected.shape[1]):
            self._means_something = False
            return
        found = next(iter(outputs.values()))
        self._same += int((expected.argmax(1) == found.argmax(1)).sum())
        self._samples += len(expected)

    def share(self) -> float | None:
        """Give the share; None where a top-1 means nothing."""
        return self._same / self._samples if self._means_something and self._samples else None

    def state_dict(self) -> dict[str, Any]:
        """Give what a killed pass goes on from."""
        return {"same": self._same, "samples": self._samples, "means_something": self._means_something}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._same, self._samples = saved["same"], saved["samples"]
        self._means_something = saved["means_something"]


def _are_classes(targets: Any, classes: int) -> bool:
    """Whether targets are indices of so many classes, of which one is no choice."""
    if (
        not isinstance(targets, Tensor)
        or classes < 2
        or targets.ndim != 1
        or targets.is_floating_point()
        or targets.dtype == torch.bool
    ):
        return False
    return bool(((targets >= 0) & (targets < classes)).all())

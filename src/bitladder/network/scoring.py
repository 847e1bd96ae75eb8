"""Scoring in one pass, batch by batch: metric, SQNR, agreement and each sample's own result add up.

The same code over any predictor (torch, QuantSim, ONNX Runtime, NPU), and over any number of samples.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.network.evaluate import Comparison, NoiseSums, Outputs, TopOne, run_batch
from bitladder.network.outputs import StoredOutputs
from bitladder.network.per_sample import scores_of
from bitladder.network.placement import placed
from bitladder.params import Params
from bitladder.paths import TASK, TRAINED
from bitladder.paths import samples as file_of
from bitladder.running.resume import fingerprint, load_state, save_state, workspace
from bitladder.statistics.scores import FP32, NETWORK, Scores, save_scores
from bitladder.tasks.metric import Metric, MetricState
from bitladder.tasks.samples import Samples

__all__ = [
    "Reference",
    "Score",
    "Tally",
    "noise_db",
    "reference_of",
    "save_score",
    "score",
    "score_outputs",
    "scoring",
    "store",
]

SAVE_EVERY_S = 30.0  # how much of a pass a killed run loses at most

STORED_BYTES = 2**30  # outputs that are worth their place on disk

Reference = nn.Module | StoredOutputs
"""What outputs are compared with: a network that runs beside on the same batch, or its outputs."""


@dataclass(frozen=True)
class Score:
    """What a pass over samples found; `own` and `reference` are the metric's states, which have more to say."""

    comparison: Comparison
    reference_value: float
    own: MetricState
    reference: MetricState

    @cached_property
    def scores(self) -> Scores:
        """The metric sample by sample."""
        return scores_of(self.own)

    @cached_property
    def reference_scores(self) -> Scores:
        """The reference's, sample by sample."""
        return scores_of(self.reference)


class Tally:
    """What adds up over the batches of one pass: outputs against a reference's, or alone where there is none."""

    def __init__(self, metric: Metric, alone: bool = False) -> None:
        self.metric, self.alone, self.samples = metric, alone, 0
        self._own, self._reference = metric.state(), metric.state()
        self._noise, self._top = NoiseSums(), TopOne()

    def add(self, outputs: Outputs, reference: Outputs, targets: Any) -> None:
        """Take up a batch. A tally that is `alone` looks at the outputs only."""
        self._own.update(outputs, targets)
        self.samples += len(next(iter(outputs.values())))
        if not self.alone:
            self._reference.update(reference, targets)
            self._noise.add(reference, outputs)
            self._top.add(reference, outputs, targets)

    def score(self) -> Score:
        """Give what has added up."""
        value = self._own.value()
        if self.alone:
            return Score(Comparison(value, 0.0, None, None, self.samples), value, self._own, self._own)
        against = self._reference.value()
        drop = self.metric.drop(against, value)
        found = Comparison(value, drop, self._noise.decibels(), self._top.share(), self.samples)
        return Score(found, against, self._own, self._reference)

    def state_dict(self) -> dict[str, Any] | None:
        """Give what a killed pass goes on from; None where the metric cannot be kept."""
        own, reference = self._own.state_dict(), self._reference.state_dict()
        if own is None or reference is None:
            return None
        sums = {"noise": self._noise.state_dict(), "top": self._top.state_dict()}
        return {"own": own, "reference": reference, "samples": self.samples, **sums}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.samples = saved["samples"]
        self._own.load_state_dict(saved["own"])
        self._reference.load_state_dict(saved["reference"])
        self._noise.load_state_dict(saved["noise"])
        self._top.load_state_dict(saved["top"])


def scoring(name: str, params: Params, *files: Path) -> AbstractContextManager[Path]:
    """Give the folder where a killed pass over the evaluation split goes on from.

    Args:
        name: of the pass.
        params: of the pipeline.
        files: what the model was made of, besides FP32's weights.

    """
    compute = (params.compute.threads, params.compute.device, params.soc.quantsim_config)
    made_of = (file_of("evaluation"), TRAINED, TASK, *files)
    return workspace(name, fingerprint(params.task, compute, params.evaluate, params.prepare, files=made_of))


def score(
    model: nn.Module,
    samples: Samples,
    metric: Metric,
    batch_size: int,
    title: str,
    reference: Reference | None = None,
    keep: StoredOutputs | None = None,
    work: Path | None = None,
) -> Score:
    """Run samples through a model, and beside it through a reference on the same batch.

    Args:
        model: in evaluation; batches go where its parameters lie.
        samples: in their order.
        metric: the task's.
        batch_size: samples at a time.
        title: of the progress bar.
        reference: what the outputs are compared with, a network or its outputs; None scores the model alone.
        keep: takes the outputs as well.
        work: a folder where a killed pass goes on from; None starts again.

    """
    placed(model)
    placed(reference)
    return score_outputs(partial(run_batch, model), samples, metric, batch_size, title, reference, keep, work)


def score_outputs(
    run: Callable[[Mapping[str, Tensor]], Outputs],
    samples: Samples,
    metric: Metric,
    batch_size: int,
    title: str,
    reference: Reference | None = None,
    keep: StoredOutputs | None = None,
    work: Path | None = None,
) -> Score:
    """Score what gives outputs of a batch, as `score` does a model."""
    tally = Tally(metric, reference is None)
    state = work / f"score-{title.replace(' ', '-')}.pt" if work else None
    if state and (saved := load_state(state)):
        tally.load_state_dict(saved["tally"])
        if keep is not None:
            keep.load_state_dict(saved["keep"])
    elif keep is not None:
        keep.clear()
    done, saved_at = tally.samples, time.monotonic()
    with torch.no_grad(), tqdm(total=len(samples), initial=done, desc=title, unit="sample", leave=False) as bar:
        for inputs, targets in samples.after(done).batches(batch_size):
            outputs = run(inputs)
            tally.add(outputs, _expected(reference, inputs, tally.samples, outputs), targets)
            if keep is not None:
                keep.append(outputs)
            bar.update(len(next(iter(inputs.values()))))
            if state and time.monotonic() - saved_at > SAVE_EVERY_S and (now := tally.state_dict()) is not None:
                save_state(state, {"tally": now, "keep": keep.state_dict() if keep is not None else None})
                saved_at = time.monotonic()
    if keep is not None:
        keep.flush()
    if state:
        state.unlink(missing_ok=True)
    return tally.score()


def noise_db(model: nn.Module, samples: Samples, reference: Reference, batch_size: int, title: str = "") -> float:
    """Give the SQNR of a model's outputs against a reference's, in dB."""
    model.eval()
    sums, done = NoiseSums(), 0
    with torch.no_grad(), tqdm(total=len(samples), desc=title, unit="sample", leave=False) as bar:
        for inputs, _ in samples.batches(batch_size):
            outputs = run_batch(model, inputs)
            sums.add(_expected(reference, inputs, done, outputs), outputs)
            done += len(next(iter(inputs.values())))
            bar.update(done - bar.n)
    return sums.decibels()


def _expected(reference: Reference | None, inputs: Mapping[str, Tensor], start: int, own: Outputs) -> Outputs:
    """Give the reference's outputs of a batch before which there are `start` samples; its own where there is none."""
    if reference is None:
        return own
    if isinstance(reference, StoredOutputs):
        return reference.read(start, start + len(next(iter(inputs.values()))))
    return run_batch(reference, inputs)


def reference_of(model: nn.Module, samples: Samples, batch_size: int, folder: Path) -> Reference:
    """Keep a model's outputs for what is compared with them many times; where they are too large, give the model."""
    inputs, _ = next(samples.first(1).batches(1))
    with torch.no_grad():
        each = sum(values.nbytes for values in run_batch(placed(model), inputs).values())
    return store(model, samples, batch_size, folder) if each * len(samples) <= STORED_BYTES else model


def store(model: nn.Module, samples: Samples, batch_size: int, folder: Path) -> StoredOutputs:
    """Run samples through a model and keep the outputs."""
    stored = StoredOutputs(folder)
    stored.clear()
    placed(model)
    with torch.no_grad(), tqdm(total=len(samples), desc="fp32", unit="sample", leave=False) as bar:
        for inputs, _ in samples.batches(batch_size):
            stored.append(run_batch(model, inputs))
            bar.update(len(next(iter(inputs.values()))))
    stored.flush()
    return stored


def save_score(path: Path, found: Score, reference: str = FP32) -> None:
    """Write the scores of a pass, and those of its reference under the name of that."""
    save_scores(path, {reference: found.reference_scores, NETWORK: found.scores})

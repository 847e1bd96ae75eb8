"""The metric of a task: a number for each sample, one for all of them, or a torchmetrics Metric."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitladder.errors import RefusedError, UserError
from bitladder.tasks.metric_groups import StateGroups
from bitladder.tasks.outputs import as_returned
from bitladder.tasks.source import user_code

__all__ = ["Metric", "MetricState", "is_stateful"]

HELD_BYTES = 2**30
"""Outputs that a metric over all of them may have held in memory."""


@dataclass(frozen=True)
class Metric:
    """How good outputs are.

    `compute` takes what the model returns for some samples, and their targets. It gives a tensor with a number for each
    sample, of which the metric is the mean; or one number, then it is called once, with the whole split. Or it is a
    torchmetrics Metric (anything with `update`, `compute` and `reset`); of a dict of values that has `name` is taken.
    """

    name: str
    compute: Any
    higher_is_better: bool = True

    @classmethod
    def of(cls, given: Any) -> "Metric":
        """Take a Metric as it is, and a torchmetrics Metric by its class's name. Raise UserError for anything else."""
        if isinstance(given, Metric):
            if callable(given.compute) or is_stateful(given.compute):
                return given
        elif is_stateful(given):
            better = getattr(given, "higher_is_better", None)
            if better is None:
                raise UserError(
                    f"task: {type(given).__name__} does not say whether higher is better; give"
                    " Metric(name, metric, higher_is_better=...)"
                )
            return cls(type(given).__name__, given, better)
        raise UserError(f"task: metric must be a Metric(name, function) or a torchmetrics Metric, and is {given!r}")

    def __call__(self, outputs: Mapping[str, Tensor], targets: Any) -> float:
        """Score the outputs of a split, by name. Raise RefusedError if that gives no finite number."""
        state = self.state()
        state.update(outputs, targets)
        return state.value()

    def state(self) -> "MetricState":
        """Give what takes up outputs batch by batch."""
        return MetricState(self)

    def drop(self, reference: float, value: float) -> float:
        """How much worse `value` is than `reference`; negative if it is better.

        Rounded to 9 digits of the metric, so that a drop of just the limit is not over it by the last bit.
        """
        drop, largest = (
            reference - value if self.higher_is_better else value - reference,
            max(abs(reference), abs(value)),
        )
        return round(drop, 8 - math.floor(math.log10(largest))) if drop else 0.0


class MetricState:
    """A metric over the batches so far."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.samples = metric, 0
        self._values: list[Tensor] = []
        self._own: Any = None  # a torchmetrics Metric of this state's
        self._held: list[tuple[dict[str, Tensor], Any]] = []  # batches, for one number of them all
        self._bytes = 0
        if is_stateful(metric.compute):
            self._own = copy.deepcopy(metric.compute)
            self._own.reset()
            self._groups = StateGroups(metric.compute)

    @property
    def values(self) -> Tensor | None:
        """Each sample's own, in double; None where the metric has none."""
        return torch.cat(self._values) if self._values else None

    @property
    def groups(self) -> int | None:
        """How many groups of samples a metric with states can be put together of; None of any other."""
        return len(self._groups.states) if self._own is not None and self._groups.states else None

    @property
    def holds(self) -> bool:
        """Whether the outputs are held, as the metric is one number of them all."""
        return bool(self._held)

    def update(self, outputs: Mapping[str, Tensor], targets: Any) -> None:
        """Take up a batch: outputs by name, and its targets."""
        before = self.samples
        self.samples += len(next(iter(outputs.values())))
        with user_code(f"the metric {self.metric.name!r}", kind=RefusedError):
            if self._own is not None:
                self._own.update(as_returned(outputs), targets)
                self._groups.update(outputs, targets, before)
                return
            if not self._held:
                found = self.metric.compute(as_returned(outputs), targets)
                if isinstance(found, Tensor) and found.ndim == 1 and len(found) == len(next(iter(outputs.values()))):
                    self._values.append(found.detach().double().cpu())
                    return
        self._hold({name: values.cpu() for name, values in outputs.items()}, targets)

    def value(self) -> float:
        """Give the metric. Raise RefusedError where it is no finite number."""
        if (values := self.values) is not None:
            return self._number(values.mean())
        with user_code(f"the metric {self.metric.name!r}", kind=RefusedError):
            found = self._own.compute() if self._own is not None else self._of_all()
        return self._counting(found)

    def of_groups(self, picks: Sequence[int]) -> float:
        """Give the metric of these groups of samples. Raise RefusedError where it is no finite number."""
        with user_code(f"the metric {self.metric.name!r}", kind=RefusedError):
            found = self._groups.compute(picks)
        return self._counting(found)

    def of_rows(self, rows: Sequence[int]) -> float:
        """Give the metric of these of the samples that are held. Raise RefusedError where it is no finite number."""
        if len(self._held) > 1:
            self._held = [self._joined()]
        outputs, targets = self._held[0]
        index = torch.as_tensor(rows)
        some = targets[index] if isinstance(targets, Tensor) else [targets[row] for row in rows]
        with user_code(f"the metric {self.metric.name!r}", kind=RefusedError):
            found = self.metric.compute(as_returned({name: one[index] for name, one in outputs.items()}), some)
        return self._counting(found)

    def _counting(self, found: Any) -> float:
        """Give the value that counts of those that a metric gives."""
        if isinstance(found, Mapping):
            if self.metric.name not in found:
                raise UserError(
                    f"task: the metric {self.metric.name!r} gives {', '.join(map(str, found))}; name it after the one"
                    f" that counts: Metric({next(iter(found), 'name')!r}, ...)"
                )
            found = found[self.metric.name]
        return self._number(found)

    def _of_all(self) -> Any:
        outputs, targets = self._joined()
        return self.metric.compute(as_returned(outputs), targets)

    def _joined(self) -> tuple[dict[str, Tensor], Any]:
        if len(self._held) == 1:
            return self._held[0]
        outputs = {name: torch.cat([one[name] for one, _ in self._held]) for name in self._held[0][0]}
        parts = [targets for _, targets in self._held]
        return outputs, torch.cat(parts) if isinstance(parts[0], Tensor) else [one for part in parts for one in part]

    def _hold(self, outputs: dict[str, Tensor], targets: Any) -> None:
        self._bytes += sum(values.nbytes for values in outputs.values())
        if self._bytes > HELD_BYTES:
            raise UserError(
                f"task: the metric {self.metric.name!r} takes the outputs of the whole split at once, and they are over"
                f" {HELD_BYTES >> 30} GB; have it give a tensor with a number for each sample, or give a torchmetrics"
                " Metric"
            )
        self._held.append((outputs, targets))

    def _number(self, value: Any) -> float:
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RefusedError(
                f"task: the metric {self.metric.name!r} must return a finite float, and returned {value!r};"
                " check Metric.compute, and the outputs for NaN"
            )
        return float(value)

    def state_dict(self) -> dict[str, Any] | None:
        """Give what a killed run goes on from; None where the metric does not say what that is."""
        own = groups = None
        if self._own is not None:
            if not hasattr(self._own, "_defaults"):  # torchmetrics' names of what accumulates
                return None
            own = {name: getattr(self._own, name) for name in (*self._own._defaults, "_update_count")}
            groups = self._groups.states
        sums = {"samples": self.samples, "bytes": self._bytes}
        return {"values": self._values, "own": own, "groups": groups, "held": self._held, **sums}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._values, self._held, self._bytes = list(saved["values"]), list(saved["held"]), saved["bytes"]
        self.samples = saved["samples"]
        if self._own is not None:
            self._groups.states = None if saved["groups"] is None else list(saved["groups"])
        for name, value in (saved["own"] or {}).items():
            setattr(self._own, name, value)


def is_stateful(given: Any) -> bool:
    """Say whether an object takes up batches as a torchmetrics Metric does."""
    return all(callable(getattr(given, name, None)) for name in ("update", "compute", "reset"))

"""The states of a torchmetrics Metric, a few samples each, put together anew: how far its value may be chance."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bitladder.tasks.outputs import as_returned

__all__ = ["StateGroups"]

SIZE = 8  # samples a group
HELD_BYTES = 2**28  # of states that are held; a metric with larger ones has no interval


class StateGroups:
    """What a metric with `update` and `compute` has accumulated of each group of samples, however they are batched."""

    def __init__(self, metric: Any) -> None:
        self._metric = copy.deepcopy(metric)
        self.states: list[dict[str, Any]] | None = [] if _adds_up(metric) else None
        self._bytes = 0

    def update(self, outputs: Mapping[str, Tensor], targets: Any, before: int) -> None:
        """Take up a batch, group by group; there were so many samples before it."""
        start, count = 0, len(next(iter(outputs.values())))
        while start < count and self.states is not None:
            begun = (before + start) % SIZE
            rows = slice(start, min(start + SIZE - begun, count))
            self._metric.reset()
            self._metric.update(as_returned({name: one[rows] for name, one in outputs.items()}), targets[rows])
            state = {name: _kept(getattr(self._metric, name)) for name in self._metric._defaults}
            self.states.append(self._together([self.states.pop(), state]) if begun else state)
            self._bytes += sum(_bytes(value) for value in state.values() if isinstance(value, list) or not begun)
            self.states = self.states if self._bytes <= HELD_BYTES else None
            start = rows.stop

    def compute(self, picks: Sequence[int]) -> Any:
        """Give the metric of these groups."""
        assert self.states is not None
        self._metric.reset()
        for name, value in self._together([self.states[pick] for pick in picks]).items():
            setattr(self._metric, name, value)
        self._metric._update_count = len(picks)
        return self._metric.compute()

    def _together(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        together: dict[str, Any] = {}
        for name, reduction in self._metric._reductions.items():
            parts = [state[name] for state in states]
            lists = isinstance(parts[0], list)
            together[name] = [one for part in parts for one in part] if lists else reduction(torch.stack(parts))
        return together


def _adds_up(metric: Any) -> bool:
    """Whether states of parts give that of the whole: lists that are joined, tensors with a reduction."""
    defaults, reductions = getattr(metric, "_defaults", None), getattr(metric, "_reductions", None)
    if defaults is None or reductions is None:
        return False
    return all(isinstance(default, list) or callable(reductions[name]) for name, default in defaults.items())


def _kept(value: Any) -> Any:
    return [_kept(one) for one in value] if isinstance(value, list) else _copied(value)


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_bytes, value))
    return value.nbytes if isinstance(value, Tensor) else 64

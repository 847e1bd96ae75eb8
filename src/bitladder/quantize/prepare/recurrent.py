"""nn.LSTM, nn.GRU and nn.RNN step by step: as one op the NPU computes them in float, whatever quantizers they have.

Each direction of a layer has one matrix for the inputs of all steps and one for the state, which every step shares. The
other modules are a step's own, each with a range of its own.
"""

from functools import partial
from typing import Any

import torch
from aimet_torch.nn.modules import custom
from torch import Tensor, nn

from bitladder.quantize.sim.hooks import hooked

__all__ = ["unroll"]

MOST_STEPS = 64
"""A longer sequence stays one op: its steps would be more ops than AIMET traces in reasonable time."""

State = tuple[Any, ...]
"""Tensors, or None for zeros."""


class _LstmStep(nn.Module):
    rows = (0, 1, 3, 2)  # torch has the gates in the order input, forget, cell, output

    def __init__(self, has_state: bool) -> None:
        super().__init__()
        self.sigmoid, self.tanh, self.write = nn.Sigmoid(), nn.Tanh(), custom.Multiply()
        self.squash, self.show = nn.Tanh(), custom.Multiply()
        if has_state:
            self.add, self.keep, self.sum = custom.Add(), custom.Multiply(), custom.Add()

    def forward(self, given: Tensor, before: Tensor | None, state: State) -> State:
        size = given.shape[-1] // 4
        gates = given if before is None else self.add(given, before)
        opened = self.sigmoid(torch.narrow(gates, -1, 0, 3 * size))
        write, keep, show = (partial(torch.narrow, opened, -1, index * size, size) for index in range(3))
        cell = self.write(write(), self.tanh(torch.narrow(gates, -1, 3 * size, size)))
        if state[1] is not None:
            cell = self.sum(self.keep(keep(), state[1]), cell)
        return self.show(show(), self.squash(cell)), cell


class _GruStep(nn.Module):
    rows = (0, 1, 2)

    def __init__(self, has_state: bool) -> None:
        super().__init__()
        self.add, self.sigmoid, self.tanh = custom.Add(), nn.Sigmoid(), nn.Tanh()
        self.reset, self.sum = custom.Multiply(), custom.Add()
        self.apart, self.keep = custom.Subtract(), custom.Multiply()
        if has_state:
            self.join = custom.Add()

    def forward(self, given: Tensor, before: Tensor, state: State) -> State:
        size = given.shape[-1] // 3
        opened, values = torch.split(given, [2 * size, size], -1)
        opened_before, values_before = torch.split(before, [2 * size, size], -1)
        reset, keep = torch.split(self.sigmoid(self.add(opened, opened_before)), size, -1)
        new = self.tanh(self.sum(values, self.reset(reset, values_before)))
        if state[0] is None:
            return (self.apart(new, self.keep(keep, new)),)
        return (self.join(new, self.keep(keep, self.apart(state[0], new))),)


class _RnnStep(nn.Module):
    rows = (0,)

    def __init__(self, rnn: nn.RNN, has_state: bool) -> None:
        super().__init__()
        self.activation = nn.Tanh() if rnn.nonlinearity == "tanh" else nn.ReLU()
        if has_state:
            self.add = custom.Add()

    def forward(self, given: Tensor, before: Tensor | None, state: State) -> State:
        return (self.activation(given if before is None else self.add(given, before)),)


class _Direction(nn.Module):
    """One layer in one direction."""

    def __init__(self, rnn: Any, suffix: str, steps: int, has_state: bool) -> None:
        super().__init__()
        self.backward_in_time = suffix.endswith("_reverse")
        kinds: dict[type, Any] = {nn.LSTM: _LstmStep, nn.GRU: _GruStep, nn.RNN: partial(_RnnStep, rnn)}
        first_step = steps - 1 if self.backward_in_time else 0
        self.steps = nn.ModuleList(kinds[type(rnn)](has_state or step != first_step) for step in range(steps))
        first: Any = self.steps[0]
        weights = {
            name: torch.cat(
                [getattr(rnn, f"{name}_{suffix}").detach().chunk(len(first.rows))[row] for row in first.rows]
            )
            for name in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if rnn.bias else ()))
        }
        given, before = weights.get("bias_ih"), weights.get("bias_hh")
        if type(rnn) is not nn.GRU and before is not None:  # a GRU's reset gate works on the second bias alone
            given, before = weights["bias_ih"] + before, None
        self.given = _linear(weights["weight_ih"], given)
        self.before = _linear(weights["weight_hh"], before)
        if type(rnn) is nn.GRU and before is None:
            self.before.bias = nn.Parameter(torch.zeros(len(weights["weight_hh"])))
        self.project = _linear(getattr(rnn, f"weight_hr_{suffix}").detach(), None) if rnn.proj_size else None
        self.concat = custom.Concat(1)

    def forward(self, values: Tensor, state: State) -> tuple[Tensor, State]:
        """Give the outputs of all steps and the last state."""
        given = self.given(values).unbind(1)
        order = list(range(len(self.steps)))
        shown = {}
        for step in reversed(order) if self.backward_in_time else order:
            before = self.before.bias if state[0] is None else self.before(state[0])
            state = self.steps[step](given[step], before, state)
            if self.project is not None:
                state = (self.project(state[0]), *state[1:])
            shown[step] = state[0].unsqueeze(1)
        return self.concat(*(shown[step] for step in order)), state


class Unrolled(nn.Module):
    """What takes the place of an nn.LSTM, nn.GRU or nn.RNN, for sequences of one length."""

    batch_first: bool

    def __init__(self, rnn: Any, steps: int, has_state: bool) -> None:
        super().__init__()
        for name in nn.RNNBase.__constants__:  # the network's own code may ask for them
            setattr(self, name, getattr(rnn, name))
        ways = ("", "_reverse") if rnn.bidirectional else ("",)
        self.has_cell, self.ways = isinstance(rnn, nn.LSTM), len(ways)
        self.layers = nn.ModuleList(
            _Direction(rnn, f"l{layer}{way}", steps, has_state) for layer in range(rnn.num_layers) for way in ways
        )
        self.concats = nn.ModuleList(custom.Concat(-1) for _ in range(rnn.num_layers if len(ways) > 1 else 0))

    def flatten_parameters(self) -> None:
        """Do nothing: that is for GPUs."""

    def forward(self, values: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Give what the module gives that it stands for."""
        values = values if self.batch_first else values.transpose(0, 1)
        given = state if self.has_cell else (state,)
        last = []
        for index in range(0, len(self.layers), self.ways):
            outputs = []
            for number in range(index, index + self.ways):
                start = (None, None) if state is None else tuple(part[number] for part in given)
                output, ended = self.layers[number](values, start)
                outputs.append(output)
                last.append(ended)
            values = outputs[0] if self.ways == 1 else self.concats[index // 2](*outputs)
        ends = tuple(torch.stack(part) for part in zip(*last, strict=True))
        return values if self.batch_first else values.transpose(0, 1), ends if self.has_cell else ends[0]


def unroll(model: nn.Module, sample: tuple[Tensor, ...]) -> None:
    """Put steps in the place of recurrent layers, as many as a sample has, where these are not too many."""
    lengths: dict[str, tuple[int, bool]] = {}

    def listen(name: str, rnn: Any) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if isinstance(inputs[0], Tensor) and inputs[0].ndim == 3:  # neither packed nor without a batch
                steps = inputs[0].shape[1 if rnn.batch_first else 0]
                lengths[name] = steps, len(inputs) > 1 and inputs[1] is not None

        return rnn.register_forward_pre_hook(hook)

    found = {name: one for name, one in model.named_modules() if type(one) in (nn.LSTM, nn.GRU, nn.RNN)}
    if not found:
        return
    with hooked(listen(name, rnn) for name, rnn in found.items()), torch.no_grad():
        model(*sample)
    for name, (steps, has_state) in lengths.items():
        if steps <= MOST_STEPS:
            model.set_submodule(name, Unrolled(found[name], steps, has_state))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer

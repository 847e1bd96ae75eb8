"""What layers see while a network runs, at some positions, and what their outputs are added to."""

import hashlib
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

import torch
from aimet_torch.nn.modules.custom import Add
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.hooks import hooked
from bitladder.tasks.task import name_outputs

__all__ = ["Positions", "added_to", "positions", "windows"]

POSITIONS = 16384  # of a layer's output, over all samples, that are looked at

GROUPED_VALUES = 4_000_000  # about, of all groups together: a depthwise layer has few weights in each


class Positions:
    """Draws, by seed and name, at which positions of a layer's output to look, batch after batch.

    All batches together are looked at in the same places as one batch of all samples.
    """

    def __init__(self, module: Any, seed: int, name: str, batches: Batches) -> None:
        """Draw nothing yet."""
        own = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(own[:7]))
        self._module, self._samples, self._at_a_time = module, len(batches.split), batches.size
        self._rows: Tensor | None = None  # of a linear layer's output that are still to come: whether to look at each
        self._each = 0  # positions of each sample of a convolution's

    def draw(self, output: Tensor) -> list[Tensor]:
        """Give the positions in the next batch's output: of each sample, or of all rows of a linear layer's."""
        if isinstance(self._module, nn.Linear):
            count = output[..., 0].numel()
            if self._rows is None:
                order = torch.randperm(self._in_all(count), generator=self._generator)
                self._rows = torch.zeros(len(order), dtype=torch.bool)
                self._rows[order[:POSITIONS]] = True
            own, self._rows = self._rows[:count], self._rows[count:]
            return [own.nonzero().flatten()]
        if not self._each:
            weights = self._module.weight[0].numel() * self._module.groups
            wanted = min(POSITIONS, GROUPED_VALUES // weights) if self._module.groups > 1 else POSITIONS
            self._each = max(1, wanted // self._in_all(len(output)))
        places = output[0, 0].numel()
        return [torch.randperm(places, generator=self._generator)[: self._each] for _ in output]

    def _in_all(self, count: int) -> int:
        """Give how many there are in all batches, of as many in the first: not always one a sample."""
        return -(-count * self._samples // min(self._at_a_time, self._samples))


def windows(module: Any, x: Tensor, drawn: list[Tensor]) -> Tensor:
    """Give what a layer multiplies by its weights at positions of its output: groups x weights x positions."""
    if isinstance(module, nn.Linear):
        return positions(module, x, drawn)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module, nn.Conv1d):
        x, kernel, dilation, stride = x.unsqueeze(2), (1, *kernel), (1, *dilation), (1, *stride)
    for axis, (size, apart, step) in enumerate(zip(kernel, dilation, stride, strict=True), 2):
        x = x.unfold(axis, apart * (size - 1) + 1, step)[..., ::apart]
    # a view, with a window for each position, of which only those that were drawn are copied
    width = x.shape[3]
    found = [sample[:, at // width, at % width] for sample, at in zip(x, drawn, strict=True)]
    return _by_group(module, [one.permute(0, 2, 3, 1).flatten(0, 2) for one in found])


def positions(module: Any, y: Tensor, drawn: list[Tensor]) -> Tensor:
    """Give what has the shape of a layer's output at positions of it: groups x outputs x positions."""
    if isinstance(module, nn.Linear):
        return y.reshape(-1, y.shape[-1])[drawn[0]].t().unsqueeze(0)
    return _by_group(module, [sample.flatten(1)[:, at] for sample, at in zip(y, drawn, strict=True)])


def _by_group(module: Any, samples: list[Tensor]) -> Tensor:
    together = torch.cat(samples, 1)
    return together.reshape(module.groups, -1, together.shape[1])


class _Made(NamedTuple):
    """A tensor that a module gave; held on to, or its id would soon be another's."""

    tensor: Tensor
    version: int  # goes up with each change in place
    by: str
    order: int


class _Readers(TorchFunctionMode):
    """Counts, by a tensor's id, the calls that make other tensors of it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.held: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = _tensors((*args, *(kwargs or {}).values())), _tensors((result,))
        if made and not any(one is result for one in given):  # not a shape, nor an identity, nor dropout
            self.counts.update(map(id, given))
            self.held += given
        return result


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    together = (value if isinstance(value, (list, tuple)) else (value,) for value in values)
    return [one for some in together for one in some if isinstance(one, Tensor)]


def added_to(network: nn.Module, sample: tuple[Tensor, ...], layers: Container[str]) -> dict[str, str]:
    """Find layers whose output goes into an addition and nowhere else, and is made after the other summand.

    Returns: the module that gives the other summand, by the layer's name. Both are called once, for the same shape.

    """
    made: dict[int, _Made] = {}
    calls: Counter[str] = Counter()
    sums: list[list[Tensor]] = []

    def whole(one: Tensor) -> bool:
        """Whether it is as a module gave it."""
        return id(one) in made and made[id(one)].version == one._version

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            same = any(output is one for one in inputs) and whole(output)
            if isinstance(output, Tensor) and not same:
                made[id(output)] = _Made(output, output._version, name, calls.total())

        return hook

    def sum_up(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs) == 2 and all(isinstance(one, Tensor) and whole(one) for one in inputs):
            sums.append(list(inputs))

    modules = dict(network.named_modules())
    leaves = [(name, module) for name, module in modules.items() if not any(module.children())]
    with (
        hooked(module.register_forward_pre_hook(sum_up) for module in modules.values() if isinstance(module, Add)),
        hooked(module.register_forward_hook(note(name)) for name, module in leaves),
        torch.no_grad(),
        _Readers() as readers,
    ):
        outputs = name_outputs(network(*sample))
    uses = readers.counts + Counter(map(id, outputs.values()))
    found = {}
    for summands in sums:
        other, last = sorted((made[id(one)] for one in summands), key=lambda one: one.order)
        if (
            last.by in layers
            and uses[id(last.tensor)] == 1
            and calls[last.by] == calls[other.by] == 1
            and last.tensor.shape == other.tensor.shape
        ):
            found[last.by] = other.by
    return found

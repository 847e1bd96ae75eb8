"""Tasks without labels: the outputs of FP32 take their place.

The metric is agreement with FP32, and training a quantized network distils from it. One line makes such a task:
`return label_free(network, samples)`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.task import SPLITS, Metric, Quantization, Split, Task, name_outputs

__all__ = ["label_free"]

BATCH = 20


def label_free(
    model: Callable[[], nn.Module],
    samples: Callable[[int], Mapping[str, dict[str, Tensor] | Dataset]],
    compare: str = "top-1",
    quantization: Quantization | None = None,
) -> Task:
    """Make a task of a trained network and samples without labels.

    Args:
        model: builds the network with its trained weights, which must be the same each time. Of several outputs the
            mean is taken; of integer ones, the share that is equal.
        samples: gives the inputs of every split for a seed: tensors by name, or a map-style Dataset whose items are
            inputs, of which FP32's outputs are computed as they are read.
        compare: `top-1`, the share of samples (of pixels, where the output has them) with FP32's largest score along
            dimension 1; or `cosine`, the mean cosine similarity of each sample's output with FP32's.
        quantization: what the task asks of AIMET.

    """
    kinds = {
        "top-1": (Metric("agreement with FP32", _metric(_top1)), _loss(_distil)),
        "cosine": (Metric("cosine", _metric(_cosine)), _loss(_turn)),
    }
    if compare not in kinds:
        raise UserError(f"task: label_free compares by {' or '.join(kinds)}, not by {compare!r}")
    metric, loss = kinds[compare]

    fp32 = cache(lambda: model().eval())

    def splits(seed: int) -> dict[str, Split | Dataset]:
        network, again = fp32(), model().state_dict()
        for name, values in network.state_dict().items():
            if not torch.equal(values, again[name]):
                raise UserError(f"task: without labels, model() must give trained weights; {name!r} differs each time")
        return {
            name: Split(inputs, _outputs(network, inputs, name)) if isinstance(inputs, dict) else inputs
            for name, inputs in samples(seed).items()
            if name in SPLITS
        }

    def label(inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return _joined(name_outputs(fp32()(*inputs.values())))

    return Task(model, splits, loss, metric, quantization=quantization or Quantization(), label=label)


def _outputs(network: nn.Module, inputs: dict[str, Tensor], title: str) -> Tensor:
    """Give FP32's output on a split in memory."""
    count = len(next(iter(inputs.values()), ()))
    if isinstance(network, OnnxNetwork):
        network.check_inputs(inputs)
    parts: list[Tensor] = []
    with torch.no_grad():
        for start in tqdm(range(0, count, BATCH), desc=f"fp32 {title}", leave=False):
            parts.append(_joined(name_outputs(network(*(values[start : start + BATCH] for values in inputs.values())))))
    return torch.cat(parts) if parts else torch.zeros(0)


def _joined(outputs: dict[str, Tensor]) -> Tensor:
    """Give an output as it is, and several side by side: targets are one tensor. In double, integers stay exact."""
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    return torch.cat([values.reshape(len(values), -1).double() for values in outputs.values()], 1)


Returned = Tensor | Mapping[str, Tensor]


def _pairs(outputs: Returned, fp32: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give each output with its part of what `_outputs` gave."""
    if isinstance(outputs, Tensor):
        yield outputs, fp32
        return
    sizes = [values[0].numel() for values in outputs.values()]
    for values, part in zip(outputs.values(), fp32.split(sizes, 1), strict=True):
        yield values, part.reshape(values.shape).to(values.dtype)


def _metric(compare: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Returned, Tensor], Tensor]:
    def metric(outputs: Returned, fp32: Tensor) -> Tensor:
        """Give each sample's own, the mean over outputs."""
        found = [
            (compare(values, part) if values.is_floating_point() else (values == part).double())
            .reshape(len(values), -1)
            .mean(1)
            for values, part in _pairs(outputs, fp32)
        ]
        return torch.stack(found).mean(0)

    return metric


def _loss(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Returned, Tensor], Tensor]:
    def loss(outputs: Returned, fp32: Tensor) -> Tensor:
        """Sum over outputs; integer ones have no gradient."""
        found = [distance(values, part) for values, part in _pairs(outputs, fp32) if values.is_floating_point()]
        return torch.stack(found).sum() if found else torch.zeros(())

    return loss


def _top1(outputs: Tensor, fp32: Tensor) -> Tensor:
    return (outputs.argmax(1) == fp32.argmax(1)).double()


def _cosine(outputs: Tensor, fp32: Tensor) -> Tensor:
    return functional.cosine_similarity(outputs.flatten(1).double(), fp32.flatten(1).double())


def _distil(outputs: Tensor, fp32: Tensor) -> Tensor:
    """Kullback-Leibler divergence from FP32's classes to the network's (arXiv:1503.02531)."""
    student = functional.log_softmax(outputs, 1)
    return functional.kl_div(student, functional.softmax(fp32, 1), reduction="batchmean")


def _turn(outputs: Tensor, fp32: Tensor) -> Tensor:
    return (1 - functional.cosine_similarity(outputs.flatten(1), fp32.flatten(1))).mean()

"""Cross-layer equalization (arXiv:1906.04721)."""

import copy

import torch

from bitladder.quantize.sim.relu6 import keep_relu
from bitladder.quantize.sim.sim import sim_type
from bitladder.quantize.techniques.technique import NotApplicable, Quantized, Setting, apply, copy_network, on_float

__all__ = ["cle"]


def cle(setting: Setting, start: Quantized | None) -> Quantized:
    """Scales moved between neighbouring layers, so that their channels' ranges are alike (arXiv:1906.04721).

    AIMET passes over layers with ReLU6 between them, so ReLU takes its place; whether the metric allows that shows in
    the score of the whole.
    """
    start = start or apply("min-max", setting, None)
    model, kind = copy_network(start.model), sim_type(start.model)
    before = copy.deepcopy(model.state_dict())
    swapped = kind.swap_relu6(model)
    kind.equalize(model, setting.sample)
    if all(torch.equal(values, before[name]) for name, values in model.state_dict().items()):
        raise NotApplicable("there are no two layers with only a ReLU between them")
    if swapped:
        keep_relu(model)
    return on_float(setting, start, model, "cle")

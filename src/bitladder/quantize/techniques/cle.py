"""Cross-layer equalization (arXiv:1906.04721)."""

import copy

import torch
from aimet_torch.cross_layer_equalization import equalize_model

from bitladder.quantize.sim.torch_sim import keep_relu, swap_relu6
from bitladder.quantize.techniques.technique import NotApplicable, Quantized, Setting, apply, copy_network, on_float

__all__ = ["cle"]


def cle(setting: Setting, start: Quantized | None) -> Quantized:
    """Scales moved between neighbouring layers, so that their channels' ranges are alike (arXiv:1906.04721).

    AIMET passes over layers with ReLU6 between them, so ReLU takes its place; whether the metric allows that shows in
    the score of the whole.
    """
    start = start or apply("min-max", setting, None)
    model = copy_network(start.model)
    before = copy.deepcopy(model.state_dict())
    swapped = swap_relu6(model)
    equalize_model(model, dummy_input=setting.sample)
    if all(torch.equal(values, before[name]) for name, values in model.state_dict().items()):
        raise NotApplicable("there are no two layers with only a ReLU between them")
    if swapped:
        keep_relu(model)
    return on_float(setting, start, model, "cle")

"""Mixed precision: the fewest layers of a rung given more bits, until its goal holds."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bitladder.network.evaluate import Comparison
from bitladder.network.scoring import noise_db, reference_of
from bitladder.params import MixedParams
from bitladder.precision import Precision
from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.isolated import isolated, quantized_layers
from bitladder.quantize.sim.torch_sim import set_layers
from bitladder.quantize.techniques.gptq import gptq
from bitladder.quantize.techniques.technique import GPTQ, Quantized, Setting, with_biases
from bitladder.tasks.samples import held

__all__ = ["raise_layers"]

SAMPLES = 32  # to order the layers by; which of them are raised is decided on all samples


def raise_layers(
    quantized: Quantized, setting: Setting, mixed: MixedParams, score: Callable[[nn.Module], Comparison]
) -> tuple[Quantized, dict[str, str]]:
    """Raise layers to `mixed.raise_to` until the drop is within `mixed.max_drop`, as few as can be.

    Layers are ordered by the noise that each puts on the network's outputs for what raising it costs; how many of them
    it takes is found by bisection, as the drop falls with each. If all are not enough, all are raised.

    Returns: the quantized network; the raised layers, by name, with their precision such as `W8A8`.
    """
    if score(quantized.sim.model).drop <= mixed.max_drop:
        return quantized, {}
    order = _order_layers(quantized, setting, mixed)
    found = {len(order): _raised(quantized, setting, mixed, order)}
    low, high = 0, len(order)  # `low` are too few, `high` are enough or all
    with tqdm(desc="mixed precision", unit="try") as bar:
        while high - low > 1:
            middle = (low + high) // 2
            candidate = _raised(quantized, setting, mixed, order[:middle])
            drop = score(candidate.sim.model).drop
            bar.set_postfix({"layers": middle, "drop": drop})
            bar.update()
            if drop <= mixed.max_drop:
                high, found[middle] = middle, candidate
            else:
                low = middle
    return found[high], {name: str(mixed.raise_to.precision) for name in sorted(order[:high])}


def _order_layers(quantized: Quantized, setting: Setting, mixed: MixedParams) -> list[str]:
    """Order a sim's layers with weights: the most noise on the outputs for the least cost first."""
    few = held(setting.fit.first(SAMPLES))
    size = setting.params.batch_size
    reference = reference_of(quantized.model, few, size, setting.work / "order")
    costs = _costs(quantized, setting, mixed)
    gain = {}
    for name, layer in tqdm(quantized_layers(quantized.sim, "weight").items(), desc="layers", unit="layer"):
        with isolated(quantized.sim, {name: layer}, "weight"):
            noise = noise_db(quantized.sim.model, few, reference, size, name)
        gain[name] = 10 ** (-noise / 10) / costs[name]
    return sorted(gain, key=lambda name: (-gain[name], name))


def _costs(quantized: Quantized, setting: Setting, mixed: MixedParams) -> dict[str, float]:
    """Give what raising each layer costs: bytes of its weights, or multiplications at the wider precision."""
    layers: dict[str, Any] = {
        name: quantized.model.get_submodule(name) for name in quantized_layers(quantized.sim, "weight")
    }
    if mixed.cost == "bytes":
        wider = max(1, mixed.raise_to.weights - setting.precision.weights) / 8
        return {name: layer.weight.numel() * wider for name, layer in layers.items()}
    positions: dict[str, int] = {}

    def count(name: str) -> Callable:
        def hook(module: Any, inputs: object, output: torch.Tensor) -> None:
            channels = module.weight.shape[0]
            positions[name] = max(1, output.numel() // channels)

        return hook

    with hooked(layer.register_forward_hook(count(name)) for name, layer in layers.items()), torch.no_grad():
        quantized.model(*setting.sample)
    return {name: float(layer.weight.numel() * positions.get(name, 1)) for name, layer in layers.items()}


def _raised(quantized: Quantized, setting: Setting, mixed: MixedParams, names: list[str]) -> Quantized:
    """Give a copy with these layers raised: their float weights put back, ranges and corrected biases found anew."""
    layers: Mapping[str, Precision] = dict.fromkeys(names, mixed.raise_to.precision)
    title = f"{len(names)} layers raised"
    if GPTQ in quantized.techniques:  # done anew: it has made up for the bits that these layers lacked
        done = gptq(replace(setting, layers={**setting.layers, **layers}), quantized)
        return replace(done, techniques=(*done.techniques, title))
    sim = quantized.copy_sim(setting, float_biases=True)
    for name in names:
        layer: Any = sim.model.get_submodule(name)
        layer.param_quantizers["weight"].allow_overwrite(True)
        with torch.no_grad():
            layer.weight.copy_(quantized.model.get_parameter(f"{name}.weight"))
    set_layers(sim, layers)
    return with_biases(setting, quantized, sim, title)

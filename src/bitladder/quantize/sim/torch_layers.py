"""What quantization does to each layer of a network of torch: its SQNR, and the ranges of its weights and outputs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.network.evaluate import NoiseSums, run_batch
from bitladder.network.placement import placed
from bitladder.quantize.sim.clipped import clipped_layers
from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.layers import SAMPLES, LayerSqnr
from bitladder.tasks.samples import Samples

__all__ = ["layer_rows", "layer_sqnr"]

AT_A_TIME = 1  # FP32's outputs of all layers are held


def layer_rows(model: nn.Module, sim: QuantizationSimModel, split: Samples) -> list[dict[str, Any]]:
    """Give a row a layer, in the network's order, as metrics/layers/*.csv holds them.

    Args:
        model: the prepared network in FP32.
        sim: made from it, calibrated.
        split: samples; the first few are run.

    Ranges are those of the quantizers, over all channels; None where a layer has no such quantizer.

    """
    found = {layer.layer: layer for layer in layer_sqnr(model, sim, split.first(SAMPLES))}
    rows = []
    for name, module in sim.model.named_modules():
        if name not in found:
            continue
        weights = dict(getattr(module, "param_quantizers", {})).get("weight")
        outputs = next(iter(getattr(module, "output_quantizers", ())), None)
        rows.append(
            {"layer": name, "kind": found[name].kind, "sqnr_db": found[name].sqnr_db}
            | _range("weight", "weights_bits", weights)
            | _range("output", "outputs_bits", outputs)
        )
    return rows


def layer_sqnr(model: nn.Module, sim: QuantizationSimModel, split: Samples) -> list[LayerSqnr]:
    """Compare every layer's output in the sim with FP32's on the same samples; worst first.

    Of what feeds only a ReLU or ReLU6, what that lets through is compared: its range is the activation's.
    """
    leaves = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if not any(module.children()) and not isinstance(module, nn.Identity)
    }
    clipped, sums = clipped_layers(sim), NoiseSums()
    placed(model)
    placed(sim.model)
    for inputs, _ in split.batches(AT_A_TIME):
        reference: dict[str, list[Tensor]] = {name: [] for name in leaves}  # several of a layer that is called again

        def keep(name: str, output: Tensor, reference: dict[str, list[Tensor]] = reference) -> None:
            reference[name].append(output)

        def compare(name: str, output: Tensor, reference: dict[str, list[Tensor]] = reference) -> None:
            passed = model.get_submodule(clipped[name]) if name in clipped else nn.Identity()
            sums.add({name: passed(reference[name].pop(0))}, {name: passed(output)})

        _run_layers(model, list(leaves), inputs, keep)
        _run_layers(sim.model, list(leaves), inputs, compare)
    found = [LayerSqnr(name, leaves[name], value) for name, value in sums.by_name().items()]
    return sorted(found, key=lambda layer: layer.sqnr_db)


def _run_layers(
    model: nn.Module, layers: list[str], inputs: Mapping[str, Tensor], take: Callable[[str, Tensor], None]
) -> None:
    """Run a batch, and hand over the output of each layer that gives a floating-point tensor, as it comes."""

    def hand(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                take(name, output.detach().clone())  # what works in place would change it

        return hook

    with hooked(model.get_submodule(name).register_forward_hook(hand(name)) for name in layers), torch.no_grad():
        run_batch(model, inputs)


def _range(what: str, bits: str, quantizer: Any) -> dict[str, Any]:
    if quantizer is None or not quantizer.is_initialized():
        return {bits: None, f"{what}_min": None, f"{what}_max": None}
    low, high = quantizer.get_min(), quantizer.get_max()
    return {bits: quantizer.bitwidth, f"{what}_min": low.min().item(), f"{what}_max": high.max().item()}

"""What quantization does to each layer: its SQNR, and the ranges of its weights and outputs."""

from typing import Any

from torch import nn

from bitladder.quantize.onnx_simulation import OnnxSim
from bitladder.quantize.simulation import Sim
from bitladder.quantize.verify import layer_sqnr
from bitladder.tasks.task import Split

__all__ = ["layer_rows"]

SAMPLES = 32  # enough for an SQNR to a tenth of a dB, and no more than a moment's work


def layer_rows(model: nn.Module, sim: Sim, split: Split) -> list[dict[str, Any]]:
    """Give a row a layer, in the network's order, as metrics/layers/*.csv holds them.

    Args:
        model: the prepared network in FP32.
        sim: made from it, calibrated.
        split: samples; the first few are run.

    Ranges are those of the quantizers, over all channels; None where a layer has no such quantizer.

    """
    if isinstance(sim, OnnxSim):
        return sim.layers(split.first(SAMPLES))
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


def _range(what: str, bits: str, quantizer: Any) -> dict[str, Any]:
    if quantizer is None or not quantizer.is_initialized():
        return {bits: None, f"{what}_min": None, f"{what}_max": None}
    low, high = quantizer.get_min(), quantizer.get_max()
    return {bits: quantizer.bitwidth, f"{what}_min": low.min().item(), f"{what}_max": high.max().item()}

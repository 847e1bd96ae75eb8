"""Batch norms' statistics re-estimated under quantization (arXiv:2201.08442)."""

import copy

from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.bn_reestimation import reestimate_bn_stats
from torch import Tensor, nn

from bitladder.network.model import has_folded
from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.sim import build_sim
from bitladder.quantize.techniques.technique import NotApplicable, Quantized, Setting, apply, copy_network, on_float

__all__ = ["bn_reestimation"]

BN = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def bn_reestimation(setting: Setting, start: Quantized | None) -> Quantized:
    """Batch norms' statistics moved by what quantization does to them, then folded (arXiv:2201.08442).

    AIMET puts in the statistics of the samples themselves, which a few hundred do not give as training did: so it is
    the change from the float network's to the quantized one's, on the same samples, that is put in.

    Scaling a channel by its batch norm scales its weights' grid alike, so that the statistics of the unfolded network
    under quantization are those of the folded one.
    """
    start = start or apply("min-max", setting, None)
    unfolded = setting.unfolded()
    if not any(isinstance(module, BN) for module in unfolded.modules()):
        folded = "an ONNX file's batch norms are folded once, when it is prepared"
        raise NotApplicable(folded if has_folded(setting.model) else "the network has no batch norm")
    if "cle" in start.techniques:
        raise NotApplicable("cle has changed the layers that the batch norms belong to")
    noisy = build_sim(unfolded, setting.sample, setting.precision, setting.config, start.ranges)
    noisy.set_layers(setting.layers)
    noisy.set_blocks(setting.block)
    noisy.calibrate(setting.fit, setting.params.batch_size)
    batches = Batches(setting.fit, setting.params.batch_size)
    found, expected = (_statistics(model, batches) for model in (noisy.model, copy.deepcopy(unfolded)))
    for name, module in unfolded.named_modules():
        if name in expected:
            (mean, variance), (float_mean, float_variance) = found[name], expected[name]
            module.running_mean += mean - float_mean
            module.running_var *= variance / float_variance.clamp_min(module.eps)
    fold_all_batch_norms(unfolded, None, dummy_input=setting.sample)
    model = copy_network(setting.model)
    model.load_state_dict(unfolded.state_dict())
    return on_float(setting, start, model, "bn-reestimation")


def _statistics(model: nn.Module, batches: Batches) -> dict[str, tuple[Tensor, Tensor]]:
    """Give mean and variance of what comes to each batch norm; the network's own statistics are replaced."""
    reestimate_bn_stats(model, batches, len(batches), lambda model, inputs: model(*inputs))
    return {
        name: (module.running_mean, module.running_var)
        for name, module in model.named_modules()
        if isinstance(module, BN) and module.running_mean is not None and module.running_var is not None
    }

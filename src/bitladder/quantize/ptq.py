"""Post-training quantization of one rung."""

from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from bitladder.params import PtqParams
from bitladder.precision import Precision
from bitladder.quantize.simulation import build_sim, calibrate
from bitladder.tasks.task import Split

__all__ = ["quantize"]


def quantize(
    model: nn.Module,
    sample: tuple[Tensor, ...],
    calibration: Split,
    precision: Precision,
    config: str,
    params: PtqParams,
) -> tuple[QuantizationSimModel, str]:
    """Quantize a prepared network by calibration.

    Returns: the calibrated sim; the name of the technique, such as `ptq:bn-fold+min-max`.
    """
    sim = build_sim(model, sample, precision, config, params.range_setting)
    calibrate(sim, calibration.first(params.samples), params.batch_size)
    return sim, f"ptq:bn-fold+{params.range_setting}"

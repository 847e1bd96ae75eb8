"""Tensors of small values get the steps that they ask for; what is next to nothing within a tensor does not."""

import pytest
import torch
from aimet_torch.quantization.affine import QuantizeDequantize
from torch import nn

from bitladder.network.model import sample_inputs
from bitladder.precision import Precision
from bitladder.quantize.sim import small_scales
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.samples import Split


@pytest.fixture(autouse=True)
def small():
    small_scales.install()


def scales_of(values: torch.Tensor, bits: int, symmetric: bool, by_channel: bool) -> torch.Tensor:
    quantizer = QuantizeDequantize((len(values), 1) if by_channel else (), bits, symmetric)
    with quantizer.compute_encodings():
        quantizer(values)
    return quantizer.get_scale().flatten()


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [1e-6, 1e-9])
def test_a_small_tensor_is_quantized_as_finely_as_a_large_one(bits, symmetric, size):
    values = torch.randn(8, 200, generator=torch.Generator().manual_seed(0))
    for by_channel in (False, True):
        usual = scales_of(values, bits, symmetric, by_channel)
        assert torch.allclose(scales_of(values * size, bits, symmetric, by_channel) / size, usual, rtol=1e-4)


@pytest.mark.parametrize("rest", [0.0, 1e-12])
def test_a_channel_of_next_to_nothing_keeps_aimets_step(rest):
    """A step of 1e-14 would put the bias beyond int32."""
    values = torch.randn(2, 200)
    values[1] *= rest
    assert scales_of(values, 8, True, True)[1].item() == pytest.approx(1.19e-7, rel=0.01)
    assert scales_of(torch.zeros(2, 200), 8, True, True).tolist() == pytest.approx([1.19e-7] * 2, rel=0.01)


def test_a_network_with_small_weights_and_large_activations_is_right_at_every_precision():
    """As where FP16 overflows: one layer multiplies by a million, the next one divides."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    net[0].weight.data *= 1e6
    net[2].weight.data *= 1e-6
    split = Split({"image": torch.randn(32, 3, 8, 8)}, torch.zeros(32))
    expected = net(split.inputs["image"]).detach()
    for bits, decibels in ((16, 80), (8, 35)):
        sim = build_sim(net, sample_inputs(split), Precision(bits, bits), "htp_v75")
        sim.calibrate(split, 8)
        noise = (sim.model(split.inputs["image"]) - expected).square().mean()
        assert 10 * torch.log10(expected.square().mean() / noise) > decibels

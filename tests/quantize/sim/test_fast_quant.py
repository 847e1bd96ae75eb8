"""The lean quantizers against AIMET's own: same answers, same gradients."""

import copy

import pytest
import torch
from aimet_torch.quantization.affine import QuantizeDequantize
from torch import nn

from bitladder.network.model import sample_inputs
from bitladder.precision import Precision
from bitladder.quantize.sim import fast_quant, small_scales
from bitladder.quantize.sim.fast_quant import aimets_own, plain_tensors
from bitladder.quantize.sim.sim import build_sim

TENSOR, BY_CHANNEL, BY_INPUT_CHANNEL = (16, 8, 7, 7), (8, 4, 3, 3), (4, 8, 3, 3)

# the quantizer's shape, the tensor's, bits, symmetric, least and greatest
KINDS = {
    "clips both sides": ((), TENSOR, 8, False, -1.0, 2.0),
    "clips nothing": ((1,), TENSOR, 8, False, -10.0, 10.0),
    "16 bits": ((), TENSOR, 16, False, -2.0, 3.0),
    "from zero": ((), TENSOR, 8, False, 0.0, 2.0),
    "zero outside": ((), TENSOR, 8, False, 0.5, 2.0),
    "no range": ((), TENSOR, 8, False, 0.0, 0.0),
    "symmetric": ((), TENSOR, 8, True, -1.0, 1.0),
    "weights": ((8, 1, 1, 1), BY_CHANNEL, 4, True, -5.0, 5.0),
    "weights, clipped": ((8, 1, 1, 1), BY_CHANNEL, 4, True, -1.0, 1.0),
    "transposed": ((1, 8, 1, 1), BY_INPUT_CHANNEL, 4, True, -1.0, 1.0),
    "a dead channel": ((8, 1, 1, 1), BY_CHANNEL, 4, True, -1e-9, 1e-9),
    "asymmetric by channel, AIMET's": ((8, 1, 1, 1), BY_CHANNEL, 8, False, -1.0, 2.0),
}


@pytest.fixture(autouse=True)
def lean():
    fast_quant.install()
    small_scales.install()


@pytest.mark.parametrize("trained_ranges", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_gradients_are_aimets(kind, trained_ranges):
    shape, of, bits, symmetric, low, high = KINDS[kind]
    torch.manual_seed(0)
    quantizer = QuantizeDequantize(shape, bits, symmetric)
    quantizer.set_range(low * (0.5 + torch.rand(shape)), high * (0.5 + torch.rand(shape)))
    quantizer.requires_grad_(trained_ranges)
    values, gradient = torch.randn(of), torch.randn(of)
    found = []
    for context in (aimets_own, plain_tensors):
        quantizer.zero_grad()
        x = values.clone().requires_grad_()
        with context():
            output = quantizer(x)
            output.backward(gradient)
            with torch.no_grad():
                inferred = quantizer(values)
        found.append((output.detach(), inferred, x.grad, quantizer.min.grad, quantizer.max.grad))
    for ours, aimets in zip(*reversed(found), strict=True):
        assert (ours is None) == (aimets is None)
    for ours, aimets in zip(found[1][:3], found[0][:3], strict=True):
        assert torch.equal(ours.as_subclass(torch.Tensor), aimets.as_subclass(torch.Tensor))
    if trained_ranges:
        for ours, aimets in zip(found[1][3:], found[0][3:], strict=True):
            torch.testing.assert_close(ours, aimets, rtol=1e-4, atol=1e-4)


def test_the_lean_way_is_taken_and_calibration_is_not(trained, monkeypatch):
    taken = []
    own = fast_quant._QuantizeDequantize.apply
    monkeypatch.setattr(fast_quant._QuantizeDequantize, "apply", lambda *inputs: taken.append(1) or own(*inputs))
    sim = build_sim(copy.deepcopy(trained.prepared), trained.sample, Precision(4, 8), "htp_v75")
    sim.calibrate(trained.splits["calibration"].first(32), 32)
    assert not taken
    sim.model(*sample_inputs(trained.splits["train"]))
    assert len(taken) == len(dict(sim.aimet.named_quantizers()))


def test_training_steps_are_aimets(trained):
    found = []
    train = trained.splits["train"].first(64)
    for context in (aimets_own, plain_tensors):
        sim = build_sim(copy.deepcopy(trained.prepared), trained.sample, Precision(4, 8), "htp_v75")
        sim.calibrate(trained.splits["calibration"].first(32), 32)
        optimizer = torch.optim.SGD(sim.model.parameters(), 1e-3)
        losses = []
        with context():
            for _ in range(3):
                loss = trained.task.loss(sim.model(*train.inputs.values()), train.targets)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(sim.model.parameters(), 1.0)
                optimizer.step()
                losses.append(loss.item())
        found.append((losses, sim.model.state_dict()))
    assert found[0][0][0] == found[1][0][0]  # until the first step, to the bit
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for name, values in found[0][1].items():
        if isinstance(values, torch.Tensor):
            torch.testing.assert_close(found[1][1][name], values, rtol=1e-4, atol=1e-5)

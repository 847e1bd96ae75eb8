"""Scales that GPTQ rounds to: of a channel, and of each block of it."""

import pytest
import torch

from bitladder.quantize.techniques.gptq_scales import Blocks, Channels


@pytest.fixture
def layer():
    """Give an output's weights, their inputs' second moments and a scale for each weight, with blocks unlike."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 32, generator=generator, dtype=torch.float64)
    target = torch.randn(1, 6, 32, generator=generator, dtype=torch.float64)
    target[:, :, 16:] *= 8
    scale = target.abs().reshape(1, 6, 2, 16).amax(3).div(7).repeat_interleave(16, 2)
    return target, (inputs.T @ inputs / 200).unsqueeze(0), scale


def error(target, moments, values):
    return ((values - target) @ moments * (values - target)).sum()


def rounded(target, scale):
    return (target / scale).round().clamp(-8, 7)


def test_one_block_is_a_channel(layer):
    target, moments, scale = layer
    whole = scale.amax(2, keepdim=True)
    wide = whole.expand_as(target)
    steps = rounded(target, whole)
    for blocks, channels in (
        (Blocks(32).best(target, moments, wide, -8, 7), Channels(True).best(target, moments, whole, -8, 7)),
        (
            Blocks(32).least_squares(steps, target, moments, wide),
            Channels(True).least_squares(steps, target, moments, whole),
        ),
    ):
        torch.testing.assert_close(blocks, channels.expand_as(target))


def test_least_squares_lowers_the_error_block_by_block(layer):
    target, moments, scale = layer
    steps = rounded(target, scale)
    moved = Blocks(16).least_squares(steps, target, moments, scale)
    assert error(target, moments, steps * moved) < error(target, moments, steps * scale)
    assert torch.equal(moved[:, :, :1].expand(1, 6, 16), moved[:, :, :16])


def test_blocks_are_stored_as_a_quantizer_has_them(layer):
    _, _, scale = layer
    assert torch.equal(Blocks(16).stored(scale).reshape(6, 2), scale[0, :, ::16])

"""AIMET's search for a grid that weights are on already ends early where it cannot succeed, and finds the same."""

import pytest
import torch
from aimet_torch import utils as aimet

from bitladder.quantize.sim import prequantized

SIXTEEN_BITS = 2**15 - 1


@pytest.fixture(autouse=True)
def early():
    prequantized.install()


def weights(channels: int, size: int, on_the_grid: float) -> torch.Tensor:
    """Make weights, of which this share of the channels is on a grid of 16 bits, each channel on its own."""
    drawn = torch.Generator().manual_seed(0)
    values = torch.randn(channels, size, generator=drawn)
    scale = values.abs().amax(dim=1, keepdim=True) / SIXTEEN_BITS
    grid = (values / scale).round() * scale
    count = round(on_the_grid * channels)
    return torch.cat([grid[:count], values[count:]])


def scale_of(values: torch.Tensor) -> torch.Tensor | None:
    """Give the grid that is found, if there is one."""
    try:
        return aimet._decompose_prequantized_tensor(values, -SIXTEEN_BITS - 1, SIXTEEN_BITS, (len(values), 1))[1]
    except aimet._DecompositionError:
        return None


@pytest.mark.parametrize("size", [1, 2, 9, 64, 700])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.85, 0.95, 1.0])
@pytest.mark.parametrize("channels", [1, 12, 40])
def test_what_is_found_is_the_same(channels, size, share, monkeypatch):
    values = weights(channels, size, share)
    values[channels // 2] *= channels > 12  # all zeros
    found = scale_of(values)
    monkeypatch.setattr(aimet, "_select_divisor", prequantized._theirs)
    expected = scale_of(values)
    assert (found is None) == (expected is None)
    assert found is None or torch.equal(found, expected)


def test_weights_on_a_grid_are_recognised_and_of_float_ones_no_search_is_made(monkeypatch):
    assert scale_of(weights(40, 700, 1.0)) is not None
    monkeypatch.setattr(prequantized, "_theirs", lambda *given: pytest.fail("searched at length"))
    for size in (9, 700, 4608):
        assert scale_of(weights(40, size, 0.0)) is None

"""Layers that AIMET folds or exports otherwise, and weights that are computed, go in with the same outputs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from support import prepared_as_before


def norm(kind, channels, **settings):
    """Give a norm whose folding changes every weight."""
    made = kind(channels, **settings)
    made.running_mean.normal_()
    made.running_var.uniform_(0.5, 2)
    if made.affine:
        nn.init.uniform_(made.weight, 0.2, 2)
        nn.init.normal_(made.bias)
    return made


FOLDED = {
    "without factors": lambda: ([nn.Conv2d(4, 4, 3), norm(nn.BatchNorm2d, 4, affine=False)], 4),
    "transposed, 1-d": lambda: ([nn.ConvTranspose1d(4, 6, 4, 2, bias=False), norm(nn.BatchNorm1d, 6)], 3),
    "transposed, 2-d, in groups": lambda: ([nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), norm(nn.BatchNorm2d, 6)], 4),
    "transposed, 3-d": lambda: ([nn.ConvTranspose3d(4, 6, 2), norm(nn.BatchNorm3d, 6)], 5),
    "3-d": lambda: ([nn.Conv3d(4, 6, 2), norm(nn.BatchNorm3d, 6)], 5),
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_batch_norm_is_folded_behind(name):
    torch.manual_seed(0)
    layers, rank = FOLDED[name]()
    prepared = prepared_as_before(nn.Sequential(*layers, nn.ReLU()), torch.randn(3, 4, *(6,) * (rank - 2)))
    assert not [module for module in prepared.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def test_a_weight_shared_by_two_layers_is_folded_into_each_with_its_own_norm():
    torch.manual_seed(0)

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.second.weight = self.first.weight
            self.norms = nn.ModuleList(norm(nn.BatchNorm2d, 4) for _ in range(2))

        def forward(self, x):
            return self.norms[1](self.second(self.norms[0](self.first(x))))

    prepared = prepared_as_before(Shared(), torch.randn(3, 4, 6, 6))
    assert not torch.equal(prepared.first.weight, prepared.second.weight)


@pytest.mark.parametrize(
    "wrap", [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_weights_that_a_norm_computes_become_plain_weights(wrap):
    torch.manual_seed(0)
    model, x = nn.Sequential(wrap(nn.Conv2d(4, 4, 3)), nn.ReLU()).eval(), torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        expected = model(x)  # with a gradient, the weight of older norms cannot be copied
    copied = copy.deepcopy(model)
    prepared = prepared_as_before(model, x)
    assert torch.equal(copied(x), expected)  # they may share a class, which holds the weight
    assert set(prepared.state_dict()) == {"0.weight", "0.bias"}
    assert isinstance(prepared[0].weight, nn.Parameter)


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_an_embedding_bag_becomes_a_look_up_and_a_pool(mode):
    prepared = prepared_as_before(
        nn.Sequential(nn.EmbeddingBag(30, 8, mode=mode), nn.Linear(8, 2)), torch.randint(0, 30, (3, 5))
    )
    assert [type(module) for module in prepared.modules() if isinstance(module, nn.Embedding)] == [nn.Embedding]


def test_the_value_of_a_constant_pad_is_added_where_a_quantizer_sees_it():
    prepared = prepared_as_before(nn.Sequential(nn.ConstantPad2d(1, -1.0), nn.Conv2d(4, 2, 3)), torch.randn(3, 4, 6, 6))
    assert "Add" in {type(module).__name__ for module in prepared.modules()}

import pytest
import torch
from torch import nn

from bitladder.errors import UserError
from bitladder.tasks import synthetic
from bitladder.tasks.synthetic import synthesize

SHAPE = (3, 16, 16)


def network():
    """Give a network with batch norms that have seen images which are red at the left, and know them from others."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    images = 0.1 * torch.randn(64, *SHAPE)
    images[:, 0] += torch.linspace(0.8, 0, 16)
    with torch.no_grad():
        for _ in range(60):
            layers.train()(images)
    return layers.eval()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def counted(monkeypatch, stop=None):
    """Count the batches that are made; interrupt the one of this number."""
    made, moved = [], synthetic._moved

    def count(*arguments):
        made.append(arguments)
        if len(made) == stop:
            raise KeyboardInterrupt
        return moved(*arguments)

    monkeypatch.setattr(synthetic, "_moved", count)
    return made


def test_what_is_made_has_the_statistics_that_batch_norms_keep_and_more_so_than_noise():
    model = network()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    images = synthesize(model, 40, SHAPE, 0)
    assert images.shape == (40, *SHAPE) and images.abs().max() <= 1
    assert images[:, 0].mean() > images[:, 1:].mean() + 0.2  # red
    for depth in (1, 4):
        made, noise = (
            synthetic._distance(model[depth], model[:depth](values)).item()
            for values in (images, 0.5 * torch.randn(40, *SHAPE))
        )
        assert made < noise / 4
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(values.requires_grad for values in model.parameters())


def test_images_are_drawn_towards_classes(monkeypatch):
    """Without, all images are alike to this network."""
    model = network()
    with torch.no_grad():
        model[-1].weight *= 8
    monkeypatch.setattr(synthetic, "CLASS", 1.0)
    drawn = model(synthesize(model, 16, SHAPE, 0)).argmax(1).unique()
    monkeypatch.setattr(synthetic, "CLASS", 0.0)
    assert len(drawn) > len(model(synthesize(model, 16, SHAPE, 1)).argmax(1).unique())


def test_limits_are_the_networks_own_by_channel():
    scaled = nn.Sequential(Scaled(), *network())
    low, high = (0.0, 10.0, -5.0), (255.0, 20.0, 5.0)
    images, plain = synthesize(scaled, 16, SHAPE, 0, low, high), synthesize(network(), 16, SHAPE, 0)
    for channel in range(3):
        assert images[:, channel].min() >= low[channel] and images[:, channel].max() <= high[channel]
    assert torch.allclose(Scaled()(images), plain, atol=0.2)


class Scaled(nn.Module):
    """Takes bytes in the first channel, 10 to 20 in the second, -5 to 5 in the third."""

    def forward(self, x):
        low, high = torch.tensor([0.0, 10, -5]).reshape(-1, 1, 1), torch.tensor([255.0, 20, 5]).reshape(-1, 1, 1)
        return (2 * x - low - high) / (high - low)


def test_a_killed_run_goes_on_from_its_last_batch_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    model = network()
    whole = synthesize(model, 70, SHAPE, 3)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    made = counted(monkeypatch, stop=3)
    with pytest.raises(KeyboardInterrupt):
        synthesize(model, 70, SHAPE, 3)
    assert torch.equal(synthesize(model, 70, SHAPE, 3), whole)
    assert len(made) == 4  # two batches were kept, the third begun twice
    assert torch.equal(synthesize(model, 70, SHAPE, 3), whole) and len(made) == 4  # and stay, for who asks again


def test_another_seed_or_network_makes_other_images(monkeypatch):
    model = network()
    images, made = synthesize(model, 8, SHAPE, 0), counted(monkeypatch)
    assert not torch.equal(synthesize(model, 8, SHAPE, 1), images)
    model[2] = nn.ReLU6()
    synthesize(model, 8, SHAPE, 0)  # the weights are the same
    assert len(made) == 2


def test_a_network_that_views_its_maps_is_taken():
    model = nn.Sequential(*network()[:6], Viewed(), nn.Linear(8 * 12 * 12, 4))
    assert synthesize(model, 2, SHAPE, 0).shape == (2, *SHAPE)


class Viewed(nn.Module):
    """A view of two dimensions as one, which tensors in channels-last have not."""

    def forward(self, x):
        return x.view(len(x), -1)


class Unbounded(nn.Module):
    """Logits that are not numbers."""

    def forward(self, x):
        return x * float("inf") * 0


@pytest.mark.parametrize(
    ("model", "count", "said"),
    [
        (nn.Conv2d(3, 4, 3), 2, "from batch norms' statistics, and this network has none"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 2, "these saw none yet"),
        (network(), 0, "a whole number, at least 1, not 0"),
        (nn.Sequential(network(), Unbounded()), 2, "are not finite numbers"),
    ],
)
def test_what_cannot_be_is_refused(model, count, said):
    with pytest.raises(UserError, match=said):
        synthesize(model, count, SHAPE, 0)

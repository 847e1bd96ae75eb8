"""Tasks beyond the default: a folder of images, and segmentation judged by torchmetrics."""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from bitladder.errors import UserError
from bitladder.network.evaluate import predict
from bitladder.network.model import sample_inputs
from bitladder.network.smoke_test import try_task
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks import synthetic
from bitladder.tasks.builtin.efficientnet_lite0 import task as efficientnet_lite0
from bitladder.tasks.builtin.image_folder import task as image_folder
from bitladder.tasks.splits import make_splits
from bitladder.tasks.task import SPLITS, Metric, Split, Task


@pytest.fixture
def folder(tmp_path):
    for kind, grey in (("dark", 20), ("light", 230)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (40, 50), (grey + index,) * 3).save(tmp_path / f"images/{kind}/{index}.png")
    return tmp_path / "images"


def test_a_folder_of_images_and_own_weights_make_a_task(folder, tmp_path):
    import torchvision

    model = torchvision.models.squeezenet1_1(num_classes=2)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    task = image_folder(str(folder), "squeezenet1_1", str(tmp_path / "weights.pth"), side=32)
    splits = make_splits(task, 0)
    assert [len(splits[name]) for name in SPLITS] == [14, 2, 4]
    assert splits["train"].row(3)["image"].shape == (1, 3, 32, 32)
    built = try_task(task, splits)
    assert all(torch.equal(values, built.state_dict()[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"folder": "nowhere"}, r"task\.args\.folder: nowhere: no such folder"),
        ({"model": "resnet19"}, r"task\.args\.model: torchvision has no classifier 'resnet19'"),
        ({"weights": "none.pth"}, r"task\.args\.weights: none\.pth: no such file"),
    ],
)
def test_wrong_arguments_are_named(folder, args, message):
    with pytest.raises(UserError, match=message):
        image_folder(**{"folder": str(folder), "model": "squeezenet1_1"} | args)


def test_segmentation_is_judged_by_mean_intersection_over_union():
    from torchmetrics.functional.segmentation import mean_iou

    def network():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, 2, 3, padding=1),
        )

    def splits(seed):
        images = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
        images = functional.avg_pool2d(images, 5, 1, 2)
        return {name: Split({"image": images}, (images[:, 0] > 0.5).long()) for name in SPLITS}

    def miou(scores, targets):
        return mean_iou(scores.argmax(1), targets, num_classes=2, input_format="index").mean()

    task = Task(network, splits, functional.cross_entropy, Metric("mIoU", miou))
    made = make_splits(task, 0)
    model = try_task(task, made)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    split = made["train"]
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(model(split.inputs["image"]), split.targets).backward()
        optimizer.step()
    reference = task.metric(predict(model, split, 4, ""), split.targets)
    sample = sample_inputs(split)
    prepared, _ = prepare(model, sample)
    sim = build_sim(prepared, sample, Precision(8, 8), "htp_v75")
    sim.calibrate(split, 12)
    quantized = task.metric(predict(sim.model, split, 4, ""), split.targets)
    assert reference > 0.7 and abs(reference - quantized) < 0.05


def test_efficientnet_calibrates_on_crops_and_on_images_that_it_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synthetic, "STEPS", 2)
    plain, more = (efficientnet_lite0(1, 4, 1, synthetic=count).splits(0) for count in (0, 2))
    crops, images = (splits["calibration"].inputs["image"] for splits in (plain, more))
    assert images.shape == (6, 3, 224, 224)
    assert torch.equal(images[[0, 1, 4, 5]], crops)
    assert not torch.equal(images[2], images[3]) and images.min() >= -1 and images.max() <= 1
    for name in ("train", "evaluation"):
        assert torch.equal(more[name].inputs["image"], plain[name].inputs["image"])

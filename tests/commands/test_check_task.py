"""`bitladder check --task` as a user types it: their images, their weights, one of torchvision's networks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [str(Path(sys.executable).parent / "bitladder"), "check", "--task"]
    root = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_folder_of_images_and_own_weights_go_down_to_the_npu(params_with, tmp_path):
    import torchvision

    from bitladder.tasks.builtin.photographs import crops

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2).train()
    photographs = crops("train", 24, 0)[:, :, ::4, ::4]
    for index, pixels in enumerate(photographs):
        path = tmp_path / f"images/{'ab'[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        torchvision.utils.save_image(pixels, str(path), normalize=True)
    with torch.no_grad():
        for _ in range(5):
            model(photographs)  # sets the batch norms
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    args = {"folder": "images", "model": "resnet18", "weights": "mine.pth", "side": 32}
    task = {"factory": "bitladder.tasks.builtin.image_folder:task", "files": {"images": "images"}, "args": args}
    changes = {"task": task, "train.epochs": 0, "export.min_sqnr_db": 5}  # of random weights rounding leaves little
    params_with(changes)
    done = check(tmp_path)
    assert done.returncode == 1 and "ptq.samples: 500 leaves none of the" in done.stderr
    params_with({**changes, "ptq.samples": 1})
    done = check(tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    rungs = [step for bits in ("W8A16", "W8A8", "W4A8") for step in (bits, "export", "float", "target")]
    assert steps == ["task", "warning", "prepare", "fp16", "target", "W16A16", *rungs]
    assert "the task reads mine.pth; name that under task.files" in done.stdout
    assert "every tensor has its quantizer" in done.stdout
    assert "all on the NPU of SM8650" in done.stdout

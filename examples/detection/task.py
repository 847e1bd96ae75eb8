"""Where on a page is text? PP-OCR's detector (DBNet), on pages that PIL draws."""

import shutil
from importlib.metadata import files
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import find_objects, label
from torch import Tensor
from torchvision.ops import box_iou

from bitladder.tasks.onnx_model import OnnxModel, no_loss
from bitladder.tasks.task import SPLITS, Metric, Split, Task

HEIGHT, WIDTH, MOST = 160, 320, 4
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def task(samples: int) -> Task:
    model = OnnxModel("net.onnx", shapes={"x": [1, 3, HEIGHT, WIDTH]})
    return Task(model, lambda seed: splits(seed, samples), no_loss, Metric("F1 of boxes", f1))


def splits(seed: int, samples: int) -> dict[str, Split]:
    """Draw pages with up to four words; targets are their boxes (left, top, right, bottom), else 0."""
    draw, found = np.random.default_rng(seed), {}
    words = sorted({word for text in topics.values() for word in text.split() if word.isalpha() and 3 < len(word) < 10})
    fonts = sorted(Path(get_data_path(), "fonts/ttf").glob("DejaVuS*[!y].ttf"))  # the two Display have no letters
    for name in SPLITS:
        pages = [page(words, fonts, draw) for _ in range(samples)]
        images, boxes = (torch.from_numpy(np.stack(part)).float() for part in zip(*pages, strict=True))
        found[name] = Split({"x": images}, boxes)
    return found


def page(words: list[str], fonts: list[Path], draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a page, a word at most in each quarter of its height."""
    paper = tuple(draw.integers(150, 256, 3).tolist())
    image, boxes = Image.new("RGB", (WIDTH, HEIGHT), paper), np.zeros((MOST, 4))
    for row in draw.permutation(MOST)[: draw.integers(1, MOST + 1)]:
        font = ImageFont.truetype(draw.choice(fonts), int(draw.integers(14, 26)))
        text = str(draw.choice(words))
        left, top, right, bottom = font.getbbox(text)
        x = draw.integers(4, max(5, WIDTH - int(right - left) - 4)) - left
        y = row * HEIGHT / MOST + draw.integers(4, HEIGHT // MOST - 30) - top
        ImageDraw.Draw(image).text((x, y), text, tuple(draw.integers(0, 100, 3).tolist()), font)
        boxes[row] = x + left, y + top, x + right, y + bottom
    pixels = (np.asarray(image) + draw.normal(0, 8, (HEIGHT, WIDTH, 3))).clip(0, 255) / 255
    return ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1), boxes


def f1(maps: Tensor, targets: Tensor) -> Tensor:
    """Give each page's own: a box is found where one that was drawn covers it by half (intersection over union)."""
    scores = []
    for values, boxes in zip(maps[:, 0], targets, strict=True):
        drawn, found = boxes[boxes[:, 2] > 0], boxes_of(values.numpy())
        right = int((box_iou(drawn, found) > 0.5).any(1).sum()) if len(found) else 0
        scores.append(2 * right / (len(drawn) + len(found)))
    return torch.tensor(scores).double()


def boxes_of(values: np.ndarray) -> Tensor:
    """Take boxes out of a map of probabilities: text is marked without its rim, which is put back."""
    found = []
    for rows, columns in find_objects(label(values > 0.3)[0]):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        rim = height * width / (2 * (height + width))
        if min(height, width) > 2:
            found.append([columns.start - rim, rows.start - rim, columns.stop + rim, rows.stop + rim])
    return torch.tensor(found).reshape(-1, 4).float()


if __name__ == "__main__":  # takes the network out of its package
    name = "ch_PP-OCRv4_det_infer.onnx"
    shutil.copy(next(file for file in files("rapidocr-onnxruntime") or () if file.name == name).locate(), "net.onnx")

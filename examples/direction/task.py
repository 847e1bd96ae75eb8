"""Is a line of text upright, or turned by 180 degrees? PP-OCR's direction classifier, on lines that PIL draws."""

import shutil
from importlib.metadata import files
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bitladder.tasks.onnx_model import OnnxModel, no_loss
from bitladder.tasks.task import SPLITS, Metric, Split, Task

HEIGHT, WIDTH = 48, 192


def task(samples: int) -> Task:
    model = OnnxModel("net.onnx", shapes={"x": [1, 3, HEIGHT, WIDTH]})
    return Task(model, lambda seed: splits(seed, samples), no_loss, Metric("accuracy", accuracy))


def splits(seed: int, samples: int) -> dict[str, Split]:
    """Draw lines of words out of Python's help, half of them upside down."""
    draw, found = np.random.default_rng(seed), {}
    words = sorted({word for text in topics.values() for word in text.split() if word.isalpha() and len(word) > 2})
    fonts = sorted(Path(get_data_path(), "fonts/ttf").glob("DejaVuS*[!y].ttf"))  # the two Display have no letters
    for name in SPLITS:
        turned = draw.integers(0, 2, samples)
        images = np.stack([line(" ".join(draw.choice(words, 2)), fonts, bool(turn), draw) for turn in turned])
        found[name] = Split({"x": torch.from_numpy(images)}, torch.from_numpy(turned))
    return found


def line(text: str, fonts: list[Path], turn: bool, draw: np.random.Generator) -> np.ndarray:
    """Draw a line of text, and give it as the network takes it: 48 pixels high, from -1 to 1, zeros on its right."""
    font = ImageFont.truetype(draw.choice(fonts), 40)
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    paper, ink = (tuple(draw.integers(*span, 3).tolist()) for span in ((150, 256), (0, 100)))
    image = Image.new("RGB", (right - left + 12, bottom - top + 12), paper)
    ImageDraw.Draw(image).text((6 - left, 6 - top), text, ink, font)
    image = image.rotate(180) if turn else image
    width = min(WIDTH, round(image.width * HEIGHT / image.height))
    pixels = np.asarray(image.resize((width, HEIGHT))) + draw.normal(0, 8, (HEIGHT, width, 3))
    given = np.zeros((3, HEIGHT, WIDTH), np.float32)
    given[:, :, :width] = pixels.clip(0, 255).transpose(2, 0, 1) / 127.5 - 1
    return given


def accuracy(scores: Tensor, turned: Tensor) -> Tensor:
    return (scores.argmax(1) == turned).double()


if __name__ == "__main__":  # takes the network out of its package
    name = "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    shutil.copy(next(file for file in files("rapidocr-onnxruntime") or () if file.name == name).locate(), "net.onnx")

"""What does a line of text say? PP-OCR's recognizer, on lines that PIL draws."""

import shutil
from importlib.metadata import files
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bitladder.tasks.onnx_model import OnnxModel, no_loss
from bitladder.tasks.task import SPLITS, Metric, Split, Task

HEIGHT, WIDTH, LONGEST = 48, 320, 16


def task(samples: int) -> Task:
    # The last op is the softmax over 6,625 characters; the largest is the same without it
    last = onnx.load("net.onnx").graph.node[-1]
    model = OnnxModel("net.onnx", shapes={"x": [1, 3, HEIGHT, WIDTH]}, outputs=[last.input[0]])
    return Task(model, lambda seed: splits(seed, samples), no_loss, Metric("lines read right", read_right))


def splits(seed: int, samples: int) -> dict[str, Split]:
    """Draw words out of Python's help; targets are the numbers of their letters, 0 behind them."""
    draw, found = np.random.default_rng(seed), {}
    known = next(entry.value for entry in onnx.load("net.onnx").metadata_props if entry.key == "character")
    numbers = {letter: index for index, letter in enumerate(known.splitlines(), 1)}  # 0 is the blank between letters
    words = {word for text in topics.values() for word in text.split() if word.isalnum() and 3 < len(word) <= LONGEST}
    fonts = sorted(Path(get_data_path(), "fonts/ttf").glob("DejaVuS*[!y].ttf"))  # the two Display have no letters
    for name in SPLITS:
        chosen = draw.choice(sorted(words), samples)
        images = np.stack([line(word, fonts, draw) for word in chosen])
        targets = torch.zeros(samples, LONGEST, dtype=torch.long)
        for row, word in enumerate(chosen):
            targets[row, : len(word)] = torch.tensor([numbers[letter] for letter in word])
        found[name] = Split({"x": torch.from_numpy(images)}, targets)
    return found


def line(text: str, fonts: list[Path], draw: np.random.Generator) -> np.ndarray:
    """Draw a line of text, and give it as the network takes it: 48 pixels high, from -1 to 1, zeros on its right."""
    font = ImageFont.truetype(draw.choice(fonts), 40)
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    paper, ink = (tuple(draw.integers(*span, 3).tolist()) for span in ((150, 256), (0, 100)))
    image = Image.new("RGB", (right - left + 12, bottom - top + 12), paper)
    ImageDraw.Draw(image).text((6 - left, 6 - top), text, ink, font)
    width = min(WIDTH, round(image.width * HEIGHT / image.height))
    pixels = np.asarray(image.resize((width, HEIGHT))) + draw.normal(0, 8, (HEIGHT, width, 3))
    given = np.zeros((3, HEIGHT, WIDTH), np.float32)
    given[:, :, :width] = pixels.clip(0, 255).transpose(2, 0, 1) / 127.5 - 1
    return given


def read_right(scores: Tensor, targets: Tensor) -> Tensor:
    """Whether all letters are right: the likeliest of each place, repeats joined and blanks left out."""
    right = []
    for places, letters in zip(scores.argmax(2), targets, strict=True):
        read = places.unique_consecutive()
        right.append(torch.equal(read[read > 0], letters[letters > 0]))
    return torch.tensor(right).double()


if __name__ == "__main__":  # takes the network out of its package
    name = "ch_PP-OCRv4_rec_infer.onnx"
    shutil.copy(next(file for file in files("rapidocr-onnxruntime") or () if file.name == name).locate(), "net.onnx")

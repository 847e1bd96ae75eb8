"""The guide to big data: its data sets, typed as they stand, are read the same by any number of workers."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from bitladder.tasks.metric import Metric
from bitladder.tasks.splits import make_splits
from bitladder.tasks.task import SPLITS, Task
from support import ROOT

COUNT = 20


def block(named: str) -> str:
    """Give the guide's Python that defines a class."""
    text = (ROOT / "docs/guides/big-data.md").read_text("utf-8")
    (found,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"class {named}(" in code)
    return found


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(written := io.BytesIO(), "JPEG")
    return written.getvalue()


def write_files(folder: Path) -> None:
    (folder / "images/cat").mkdir(parents=True)
    for number in range(COUNT):
        (folder / f"images/cat/{number}.jpg").write_bytes(jpeg(number))
    for split in SPLITS:
        (folder / f"{split}.txt").write_text("".join(f"cat/{i}.jpg {i % 3}\n" for i in range(COUNT)))


def write_arrow(folder: Path) -> None:
    rows = {"image": [{"bytes": jpeg(i), "path": None} for i in range(COUNT)], "label": [i % 3 for i in range(COUNT)]}
    for split in SPLITS:
        (path := folder / f"saved/{split}/data-00000-of-00001.arrow").parent.mkdir(parents=True)
        table = pa.table(rows)
        with pa.ipc.new_stream(str(path), table.schema) as file:
            file.write_table(table, 7)


def write_hugging_face(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")  # no dependency of bitladder's
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": jpeg(i), "path": None} for i in range(COUNT)], "label": [i % 3 for i in range(COUNT)]}
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "rows.parquet")
    files = dict.fromkeys(SPLITS, str(folder / "rows.parquet"))
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder / "cache")).save_to_disk(folder / "saved")


@pytest.mark.parametrize(
    ("name", "write"), [("Photos", write_files), ("ArrowRows", write_arrow), ("Rows", write_hugging_face)]
)
def test_a_data_set_of_the_guide_streams(name, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    typed: dict = {}
    exec(block(name), typed)
    metric = Metric("accuracy", lambda outputs, targets: (outputs.argmax(1) == targets).double())
    task = Task(nn.Flatten, typed["splits"], functional.cross_entropy, metric)
    alone, two = (list(make_splits(task, 0, workers)["evaluation"].batches(8)) for workers in (0, 2))
    assert [len(targets) for _, targets in alone] == [8, 8, 4]
    for (inputs, targets), (others, same) in zip(alone, two, strict=True):
        assert torch.equal(inputs["image"], others["image"]) and torch.equal(targets, same)
        assert inputs["image"].dtype == torch.float32 and inputs["image"].shape[1] == 3
    assert sorted(target for _, targets in alone for target in targets.tolist()) == sorted(i % 3 for i in range(COUNT))

"""What the backend said of a rung's ops and memory, for people."""

import csv

from tabulate import tabulate

from bitladder.errors import UserError
from bitladder.paths import WORK, RungFiles
from bitladder.records import Measurement, TargetRecord, read_record

__all__ = ["format_ops"]


def format_ops(rung: str, soc: str | None = None) -> str:
    """Give the ops of a rung, or of fp16, and its memory as Markdown tables.

    Args:
        rung: profiled in this folder.
        soc: target.soc or one of target.socs, by the table's name; None: target.soc.

    Raises UserError where it was not profiled here.

    """
    files = RungFiles(rung)
    first = read_record(TargetRecord, files.on_target)
    record: Measurement = first
    if soc and soc != first.soc:
        if soc not in first.socs:
            raise UserError(f"{files.on_target}: has nothing of {soc}; put it into target.socs and run `dvc repro`")
        record = first.socs[soc]
    path = files.notes / record.soc / "ops.csv"
    if not path.is_file():
        stage = f"profile{'-' if rung == 'fp16' else '@'}{rung}"
        run = f"`dvc repro {stage}`"
        if files.model.is_file():  # profiled elsewhere, and taken from the cache: DVC would not run it again
            run = f"`rm -rf {WORK}/measured-{rung}-*`, then `dvc repro --force --single-item {stage}`"
        raise UserError(f"{path}: no such file; it is written where the rung is profiled: {run}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            [row["op"], row["unit"], int(row["cycles"]), f"{float(row['share']):.1%}", row["source"]]
            for row in csv.DictReader(file)
        ]
    ops = tabulate(rows, ["op", "runs on", "cycles", "share", "cycles are"], "github")
    memory = {"context_binary_bytes": record.memory_bytes, **record.memory.model_dump()}
    cells = [(key, f"{value:,}" if isinstance(value, int) else value or "-") for key, value in memory.items()]
    return f"{ops}\n\n" + tabulate(cells, ["memory", record.soc], "github", disable_numparse=True)

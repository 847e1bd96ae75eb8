"""What the backend said of a rung's ops and memory, for people."""

import csv
from pathlib import Path

from tabulate import tabulate

from bitladder.decision.results import METRICS
from bitladder.errors import UserError
from bitladder.running.files import read_json

__all__ = ["format_ops"]


def format_ops(rung: str, soc: str | None = None) -> str:
    """Give the ops of a rung, or of fp16, and its memory as Markdown tables.

    Args:
        rung: profiled in this folder.
        soc: one of target.socs, by the table's name; None: target.soc.

    Raises UserError where it was not profiled here.

    """
    path = Path("build/notes") / rung / (soc or "") / "ops.csv"
    if not path.is_file():
        stage = "socs" if soc else "profile"
        raise UserError(
            f"{path}: no such file; it is written where the rung is profiled: `dvc repro --force --single-item"
            f" {stage}{'-' if rung == 'fp16' else '@'}{rung}`"
        )
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            [row["op"], row["unit"], int(row["cycles"]), f"{float(row['share']):.1%}", row["source"]]
            for row in csv.DictReader(file)
        ]
    ops = tabulate(rows, ["op", "runs on", "cycles", "share", "cycles are"], "github")
    metrics = METRICS / (f"socs/{rung}.json" if soc else f"target/{rung}.json")
    record = read_json(metrics)
    if soc:
        if soc not in record:
            raise UserError(f"{metrics}: has nothing of {soc}; put it into target.socs and run `dvc repro`")
        record = record[soc]
    memory = {"context_binary_bytes": record["memory_bytes"], **record["memory"]}
    cells = [(key, f"{value:,}" if isinstance(value, int) else value or "-") for key, value in memory.items()]
    return f"{ops}\n\n" + tabulate(cells, ["memory", record["soc"]], "github", disable_numparse=True)

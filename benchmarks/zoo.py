"""Every example through the whole pipeline, down to the emulated NPU, and a table of what came out.

    python benchmarks/zoo.py DIR [--only NAME ...]

Makes a pipeline of each folder of examples/ in DIR, or goes on with the one that is there, runs `dvc repro compare`,
and prints a row for each: in percent, but for metrics of which lower is better. An example's README names the package
that it needs, if any. What fails is a row that says why.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from bitladder.commands.init import init  # noqa: E402
from bitladder.errors import UserError  # noqa: E402
from bitladder.records import Decision, Evaluation, RungDecision, TargetRecord, read_record  # noqa: E402

RUNGS = ("FP16", "W8A16", "W8A8", "W4A16", "W4A8")


def main() -> None:
    """Run them one after the other; print each row as it is there."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    names = sorted(path.parent.name for path in (ROOT / "examples").glob("*/task.py"))
    words.add_argument("--only", metavar="NAME", choices=names, nargs="+", default=names)
    given = words.parse_args()
    notes = []
    print("| network | metric | FP32 |", *(f" {rung} |" for rung in RUNGS), sep="")
    print("|" + "---|" * (3 + len(RUNGS)))
    for name in given.only:
        try:
            row, why = run(name, given.folder / name)
        except UserError as error:
            row, why = f"| {name} | failed |" + " |" * (1 + len(RUNGS)), [str(error)]
        print(row, flush=True)
        notes += [f"- {name}: {one}" for one in why]
    print("\nOff target / on the NPU, gap to the simulation on its samples (how many; technique).", *notes, sep="\n")


def run(name: str, folder: Path) -> tuple[str, list[str]]:
    """Run an example's pipeline; give its row, and why rungs are missing in it. Raise UserError where it fails."""
    if not (folder / "dvc.yaml").exists():
        init(folder, ROOT / "examples" / name)
    for words in (["task.py"], ["-m", "dvc", "repro", "compare"]):
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        with (folder / "zoo.log").open("w", encoding="utf-8") as log:
            environment = {**os.environ, "PYTHONPATH": path}
            done = subprocess.run(
                [sys.executable, *words], cwd=folder, env=environment, stdout=log, stderr=log, check=False
            )
        if done.returncode:
            lines = [line for line in (folder / "zoo.log").read_text("utf-8").splitlines() if line.strip()]
            told = [line for line in lines if line.startswith("bitladder: ")] or lines
            raise UserError(told[-1][:300])
    fp32 = read_record(Evaluation, folder / "metrics/eval/fp32.json")
    trail = {entry.precision: entry for entry in read_record(Decision, folder / "metrics/decision.json").trail}
    assert fp32.value is not None
    unit = 100 if fp32.higher_is_better else 1
    cells = [cell(trail[rung], folder, unit) if rung in trail else "" for rung in RUNGS]
    why = [f"{rung} {one.outcome}" for rung, one in trail.items() if one.misses or one.measured.value is None]
    return f"| {name} | {fp32.metric} | {figure(fp32.value, unit)} |" + "".join(f" {one} |" for one in cells), why


def cell(entry: RungDecision, folder: Path, unit: int) -> str:
    """Give a rung's figures, in percent where `unit` is 100."""
    found = entry.measured
    if found.value is None:
        return "none"
    how = (entry.technique or "").removeprefix("ptq:").replace("bn-fold+", "")
    if found.target_value is None:
        return f"{figure(found.value, unit)} / none ({how})"
    exact = read_record(TargetRecord, folder / f"metrics/target/{entry.rung}.json").exact
    samples = f"{found.target_samples}"
    if exact is not None and exact.used and exact.emulated is not None:
        samples += f", {exact.emulated.samples} of them emulated"
    assert found.target_gap is not None
    off, on, gap = (figure(one, unit) for one in (found.value, found.target_value, found.target_gap))
    return f"{off} / {on}, gap {gap} ({samples}; {how})"


def figure(value: float, unit: int) -> str:
    """Give a metric's value, or a difference of two."""
    return f"{unit * value:.1f}" if unit > 1 else f"{value:.3f}"


if __name__ == "__main__":
    main()

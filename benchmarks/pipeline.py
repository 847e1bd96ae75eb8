"""What the pipeline costs over a script by hand, and where: `dvc repro` against benchmarks/by_hand.py.

    python benchmarks/pipeline.py [--repeat 3] [--only full edit noop cli] [--no-bytecode]
    python benchmarks/pipeline.py --folder DIR

Prints Markdown tables of medians, measured in temporary clones of the current commit with empty caches:

- full: `dvc repro` from nothing against by_hand.py, in turn, and without the HTML report, which the script does not
  write; the pipeline's time by stage and by kind.
- edit: `ladder.tiny.activations: 16` against that rung's own compute, and against the script's run of that rung.
- noop: `dvc repro` with nothing to do, against pipelines of as many stages that do nothing: with one dependency, output
  and param each, and with as many as the pipeline's own.
- cli: CPU seconds of `bitladder --help` and `bitladder check`.

--folder takes a pipeline that has run, such as benchmarks/efficientnet.py makes, measures the edit there once,
against that rung's own compute, and undoes it; the other options are then not looked at.

`edit` and `noop` need a pipeline that has run, so they run it first. Bytecode is kept in a cache of the benchmark's
own, warm before anything is timed, as it is on most machines; --no-bytecode compiles all that is imported in every
process, as PYTHONDONTWRITEBYTECODE does in an environment that was installed without it.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from clones import Clone  # noqa: E402

LIMIT_S = 3600
PARTS = ("full", "edit", "noop", "cli")
NOOPS = 5
LEFT_OUT = ("report",)  # what the script does not do
RUNG, EDITED, ACTIVATIONS = "tiny", "ladder.tiny.activations", 16

# Around each stage's python; EPOCHREALTIME is bash's clock
SHIM = """#!/bin/bash
start=$EPOCHREALTIME
"{python}" "$@"
code=$?
case "$1" in stages/*) echo "$start $EPOCHREALTIME $*" >> "$BITLADDER_TRACE/processes";; esac
exit $code
"""


@dataclass(frozen=True)
class Spent:
    """Seconds of a command: by the wall clock, and of CPU in it and its children."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Stage:
    """Seconds of one stage's process, by kind."""

    startup: float
    files: float
    compute: float

    @property
    def all(self) -> float:
        """All of the process."""
        return self.startup + self.files + self.compute


@dataclass
class Repro:
    """A `dvc repro`: its seconds, and those of the stages that it ran."""

    spent: Spent
    stages: dict[str, Stage]

    @property
    def dvc(self) -> float:
        """What passed outside of the stages' processes."""
        return self.spent.wall - sum(stage.all for stage in self.stages.values())


@dataclass
class Bench:
    """Where it all happens; what was measured, one entry a repeat."""

    folder: Path
    bytecode: bool
    clone: Path
    full: list[Repro] = field(default_factory=list)
    hand: list[tuple[Spent, dict[str, float]]] = field(default_factory=list)
    edits: list[Repro] = field(default_factory=list)
    hand_edits: list[tuple[Spent, dict[str, float]]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all commands: the clone's code, the tracing, the bytecode cache."""
        python = Path(sys.executable).parent
        kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
        kept |= {
            "PATH": os.pathsep.join([str(self.folder / "bin"), str(python), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(HERE / "tracing"), str(self.clone / "src")]),
            "BITLADDER_TRACE": str(self.folder / "trace"),
        }
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        if self.bytecode:
            return kept | {"PYTHONPYCACHEPREFIX": str(self.folder / "pycache")}
        # A prefix with nothing in it: nor is the environment's own bytecode read
        return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(self.folder / "no-pycache")}

    def make_clone(self) -> None:
        """Clone the commit; take out what it knows of earlier runs, or DVC would not run what has no other outputs."""
        shutil.rmtree(self.clone, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(self.clone)], check=True)
        for name in ("dvc.lock", "metrics", "gates", "reports", "deploy"):
            path = self.clone / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def run(self, *words: str, cwd: Path | None = None, log: str = "log") -> Spent:
        """Run a command and time it; stop with the end of what it printed if it fails."""
        path = self.folder / log
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        with path.open("wb") as file:
            done = subprocess.run(
                words, cwd=cwd or self.clone, env=self.environment, stdout=file, stderr=file, timeout=LIMIT_S
            )
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{path.read_text('utf-8', 'replace')[-3000:]}")
        return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def repro(self, *words: str) -> Repro:
        """Run `dvc repro`, and read what its stages say of themselves."""
        trace = self.folder / "trace"
        shutil.rmtree(trace, ignore_errors=True)
        trace.mkdir()
        spent = self.run("dvc", "repro", *words)
        stages = {}
        processes = trace / "processes"
        for line in processes.read_text("utf-8").splitlines() if processes.exists() else ():
            start, end, script, *words = line.split()
            name = "@".join([Path(script).stem, *words])
            inner = json.loads((trace / f"{name}.json").read_text("utf-8"))
            outside = float(end) - float(start) - (inner["ended"] - inner["began"])
            startup = outside + inner["imports"]
            stages[name] = Stage(startup, inner["files"], float(end) - float(start) - startup - inner["files"])
        return Repro(spent, stages)

    def by_hand(self, *words: str) -> tuple[Spent, dict[str, float]]:
        """Run the script; give its seconds, and those of its parts."""
        folder = self.folder / "hand"
        spent = self.run("python", str(HERE / "by_hand.py"), "--folder", str(folder), *words, log="hand.log")
        return spent, json.loads((folder / "seconds.json").read_text("utf-8"))


def main() -> None:
    """Measure the parts that are asked for, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--no-bytecode", action="store_true")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitladder-pipeline-") as name:
        clone = given.folder.resolve() if given.folder else Path(name) / "clone"
        bench = Bench(Path(name), not given.no_bytecode, clone)
        shim = bench.folder / "bin/python"
        shim.parent.mkdir()
        shim.write_text(SHIM.format(python=sys.executable), "utf-8")
        shim.chmod(0o755)
        if given.folder:
            edit_there(bench)
            return
        bench.make_clone()
        if bench.bytecode:
            warm_up(bench)
        if "full" in given.only or "edit" in given.only:
            measure(bench, given.repeat, "edit" in given.only)
            print_full(bench)
        elif "noop" in given.only:
            bench.repro()
        if "edit" in given.only:
            print_edit(bench)
        if "noop" in given.only:
            print_noop(bench)
        if "cli" in given.only:
            print_cli(bench)


def warm_up(bench: Bench) -> None:
    """Import once all that the stages and the script import, so that its bytecode is there."""
    named = re.compile(r"^\s*(?:from|import) (bitladder[\w.]*)", re.MULTILINE)
    modules = {name for path in (ROOT / "stages").glob("*.py") for name in named.findall(path.read_text("utf-8"))}
    code = ";".join(
        ["from bitladder.running import determinism", "determinism.pin(2)", *map("import {}".format, sorted(modules))]
    )
    bench.run("python", "-c", code)
    bench.run("python", str(HERE / "by_hand.py"), "--help")
    bench.run("dvc", "status")


def measure(bench: Bench, repeat: int, edit: bool) -> None:
    """Run pipeline and script in turn, from nothing; then the edit of one rung, in the same turn."""
    for number in range(repeat):
        if number:
            bench.make_clone()
        shutil.rmtree(bench.folder / "hand", ignore_errors=True)
        bench.full.append(bench.repro())
        bench.hand.append(bench.by_hand("--against", "metrics/comparison.csv"))
        said = (bench.folder / "hand.log").read_text("utf-8", "replace").splitlines()
        print(said[-1], file=sys.stderr)
        if edit:
            Clone(bench.clone).edit({EDITED: ACTIVATIONS})
            bench.edits.append(bench.repro())
            bench.hand_edits.append(bench.by_hand("--rung", RUNG, "--against", "metrics/comparison.csv"))
        bench.loads.append(os.getloadavg()[0])


def edit_there(bench: Bench) -> None:
    """Measure the edit in a pipeline that has run, and bring it back to where it was."""
    clone, params = Clone(bench.clone), bench.clone / "params.yaml"
    before = params.read_bytes()
    warm_up(bench)
    bench.repro()
    try:
        clone.edit({EDITED: ACTIVATIONS})
        bench.edits.append(bench.repro("--no-run-cache"))
        assert any(name.endswith(f"@{RUNG}") for name in bench.edits[0].stages), f"{EDITED} was {ACTIVATIONS} before"
    finally:
        params.write_bytes(before)
    bench.repro()
    print_edit(bench)


def print_full(bench: Bench) -> None:
    """Print the ratio, and where the pipeline's time goes."""
    print(f"\n{len(bench.full)} repeats; load {', '.join(f'{load:.1f}' for load in bench.loads)} at their ends\n")
    print("| from nothing | pipeline | script | ratio |\n|---|---|---|---|")
    other = [spent.wall for spent, _ in bench.hand]
    whole = [run.spent.wall for run in bench.full]
    same = [run.spent.wall - sum(run.stages[name].all for name in LEFT_OUT) for run in bench.full]
    for title, own in (("wall s", whole), (f"wall s without {', '.join(LEFT_OUT)}", same)):
        ratios = [a / b for a, b in zip(own, other, strict=True)]
        each = f" ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        print(f"| {title} | {median(own):.1f} | {median(other):.1f} | {median(ratios):.2f}{each} |")
    parts = {name: median(parts.get(name, 0.0) for _, parts in bench.hand) for name in bench.hand[0][1]}
    print_stages(bench.full, parts)


def print_stages(runs: list[Repro], parts: dict[str, float]) -> None:
    """Print medians by stage and by kind; `parts` are the script's seconds of the same work."""
    print("\n| stage | process, imports | files | compute | script |\n|---|---|---|---|---|")
    rows = {
        name: [median(getattr(run.stages[name], kind) for run in runs) for kind in ("startup", "files", "compute")]
        for name in runs[0].stages
    }
    for name, row in rows.items():
        cells = [f"{value:.1f}" for value in row]
        print(f"| {name} | {' | '.join(cells)} | {f'{parts[name]:.1f}' if name in parts else '-'} |")
    sums = " | ".join(f"{sum(row[column] for row in rows.values()):.1f}" for column in range(3))
    own, rest = "-", ""
    if parts:
        other = parts["all"] - sum(value for name, value in parts.items() if name in rows) - parts["imports"]
        own, rest = f"{parts['all']:.1f}", f"imports {parts['imports']:.1f}, rest {other:.1f}"
    print(f"| all stages | {sums} | {own} |")
    print(f"| DVC itself | {median(run.dvc for run in runs):.1f} | | | {rest} |")


def print_edit(bench: Bench) -> None:
    """Print what the edit of one rung costs against the rung's own compute."""
    owned = re.compile(rf"@{RUNG}$")
    walls = [run.spent.wall for run in bench.edits]
    computes = [
        sum(stage.compute + stage.files for name, stage in run.stages.items() if owned.search(name))
        for run in bench.edits
    ]
    rows = [("the rung's own compute and files, in its stages", computes)]
    parts: dict[str, float] = {}
    if bench.hand_edits:
        hand = [sum(value for name, value in parts.items() if owned.search(name)) for _, parts in bench.hand_edits]
        rows.append(("the same in the script", hand))
        rows.append(("the script for that rung, start to end", [spent.wall for spent, _ in bench.hand_edits]))
        parts = {name: median(parts.get(name, 0.0) for _, parts in bench.hand_edits) for name in bench.hand_edits[0][1]}
    print(f"\n| edit of {RUNG} to {ACTIVATIONS}-bit activations | seconds | pipeline's ratio to it |\n|---|---|---|")
    print(f"| `dvc repro` | {median(walls):.1f} | |")
    for title, values in rows:
        ratio = median(wall / value for wall, value in zip(walls, values, strict=True))
        print(f"| {title} | {median(values):.1f} | {ratio:.2f} |")
    print_stages(bench.edits, parts)


def print_noop(bench: Bench) -> None:
    """Print a `dvc repro` with nothing to do against pipelines of as many stages, trivial ones and of its own shape."""
    locked = YAML(typ="safe").load((bench.clone / "dvc.lock").read_text("utf-8"))["stages"].values()
    shapes = [
        (len(one["deps"]), len(one.get("outs", ())), list(one.get("params", {}).get("params.yaml", {}).values()))
        for one in locked
    ]
    trivial, shaped = bench.folder / "trivial", bench.folder / "shaped"
    make_pipeline(bench, trivial, [(1, 1, [0])] * len(shapes))
    make_pipeline(bench, shaped, shapes)
    runs: dict[Path, list[Spent]] = {bench.clone: [], trivial: [], shaped: []}
    for folder in runs:
        bench.run("dvc", "repro", cwd=folder)
    for _ in range(NOOPS):
        for folder, spent in runs.items():
            spent.append(bench.run("dvc", "repro", cwd=folder))
            assert "up to date" in (bench.folder / "log").read_text("utf-8", "replace"), f"{folder}: ran something"
    print(f"\n| no-op `dvc repro`, {len(shapes)} stages | s, median of {NOOPS} | CPU s | bitladder's ratio to it |")
    print("|---|---|---|---|")
    own = median(spent.wall for spent in runs[bench.clone])
    for title, folder in (
        ("bitladder", bench.clone),
        ("trivial stages: one dependency, output and param each", trivial),
        ("empty stages with as many dependencies, outputs and params as bitladder's", shaped),
    ):
        wall, cpu = (median(getattr(one, kind) for one in runs[folder]) for kind in ("wall", "cpu"))
        print(f"| {title} | {wall:.2f} | {cpu:.2f} | {own / wall:.2f} |")


def make_pipeline(bench: Bench, folder: Path, shapes: Sequence[tuple[int, int, Sequence[Any]]]) -> None:
    """Write a pipeline of stages that do nothing, and DVC's settings of the clone.

    Args:
        bench: where, and with which environment.
        folder: where it goes.
        shapes: of each stage the numbers of its dependencies and outputs, and the values of its params.

    """
    folder.mkdir()
    for words in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        bench.run(*words, cwd=folder)
    shutil.copy(bench.clone / ".dvc/config", folder / ".dvc/config")
    stages, params = {}, {}
    for number, (deps, outs, values) in enumerate(shapes):
        named = {f"p{number}_{index}": value for index, value in enumerate(values)}
        read = [f"dep{number}_{index}" for index in range(deps)]
        made = [f"out{number}_{index}" for index in range(outs)]
        stages[f"s{number}"] = {
            "cmd": f"touch s{number} {' '.join(made)}",
            "params": list(named),
            "deps": read,
            "outs": made,
        }
        params |= named
        for name in read:
            (folder / name).write_text(f"{name}\n", "utf-8")
    for name, value in (("dvc.yaml", {"stages": stages}), ("params.yaml", params)):
        with (folder / name).open("w", encoding="utf-8") as file:
            YAML().dump(value, file)


def print_cli(bench: Bench) -> None:
    """Print the CPU seconds of two commands that must start at once."""
    print("\n| command | CPU s | wall s | limit, CPU s |\n|---|---|---|---|")
    commands: Sequence[tuple[str, float]] = (("--help", 0.3), ("check", 1.0))
    for word, limit in commands:
        spent = [bench.run("bitladder", word) for _ in range(NOOPS)]
        cpu, wall = (median(getattr(one, kind) for one in spent) for kind in ("cpu", "wall"))
        print(f"| `bitladder {word}` | {cpu:.2f} | {wall:.2f} | {limit} |")


if __name__ == "__main__":
    main()

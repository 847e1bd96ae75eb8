"""What each stage declares, compared with what its script comes to import and read."""

import os
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bitladder import paths
from bitladder.decision.results import OF_RUNGS
from bitladder.params import TARGETS, TECHNIQUES
from bitladder.paths import ARCH, SOURCES, TASK_FILES, RungFiles, evaluated, samples
from bitladder.running.imports import import_closure
from bitladder.tasks.task import SPLITS
from records import write_project
from support import ROOT

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]


@pytest.mark.parametrize("name", [name for name in STAGES if name != "sources"])
def test_a_stage_depends_on_the_list_of_its_code(name):
    stage = STAGES[name].get("do", STAGES[name])
    assert f"build/sources/{Path(stage['cmd'].split()[1]).stem}.json" in stage["deps"]
    assert not [path for path in stage["deps"] if path.endswith(".py")]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_files_that_its_code_reads(name):
    stage = STAGES[name].get("do", STAGES[name])
    deps, params = set(stage["deps"]), set(stage.get("params", ()))
    script = Path(stage["cmd"].split()[1]).stem
    text = (ROOT / f"src/bitladder/stages/{script}.py").read_text("utf-8")
    if "load_task(" in text:
        assert "build/task.json" in deps or "task" in params
        assert "compute.threads" in params  # what it runs of the task has the threads' bits
    if "params.soc" in text and script != "sources":
        assert deps & {"build/soc/arch.json", "build/soc/socs.json"}


def test_every_output_has_its_place_in_paths():
    """So that a path is written in two places alone: there and in dvc.yaml."""
    rung = RungFiles("R")
    known = {str(value) for value in vars(paths).values() if isinstance(value, Path)}
    known |= {str(getattr(rung, name)) for name, one in vars(RungFiles).items() if isinstance(one, property)}
    known |= {str(samples(split)) for split in SPLITS} | {str(evaluated(name)) for name in ("fp32", "w16a16")}
    known |= {str(TASK_FILES / "R.json"), str(SOURCES), str(ARCH.parent)}
    for name, stage in STAGES.items():
        stage = stage.get("do", stage)
        for out in (one for kind in ("outs", "metrics", "plots") for one in stage.get(kind, ())):
            path = (next(iter(out)) if isinstance(out, dict) else out).replace("${key}", "R").replace("fp16", "R")
            assert path in known or str(RungFiles("R").scores).replace("qat", "export") == path, f"{name}: {path}"


BLOCKS = set(YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8")))


@pytest.mark.parametrize("name", ["judge", "judge-fp16", "compare"])
def test_a_verdict_depends_on_every_block_that_it_reads(name):
    """Of a rung all: its label says whether it is mixed, and the advice names what PTQ and QAT were told."""
    stage = STAGES[name].get("do", STAGES[name])
    closure = import_closure(ROOT / stage["cmd"].split()[1])
    names = {f"bitladder/decision/{module}.py" for module in ("goals", "decide", "advice")}
    texts = [path.read_text("utf-8") for name, path in closure.items() if name in names]
    read = {found for text in texts for found in re.findall(r"params\.(\w+)", text)}
    read = {block for block in BLOCKS for found in read if found == block or found == f"{block}_of"}
    assert {"goals", "ladder"} <= read
    declared = [word.replace(".${key}", "") for word in stage["params"]]
    # target's figures come with the records; FP16 has no rung of its own
    assert read - {"target"} - ({"ladder"} if name == "judge-fp16" else set()) <= set(declared)


def test_the_manifest_states_the_params_that_the_bundle_depends_on():
    from bitladder.bundle.write import STATED, STATED_OF

    stated = {*STATED, *(f"{block}.{key}" for block, keys in STATED_OF.items() for key in keys)}
    assert stated - {"task"} == set(STAGES["bundle"]["params"])  # build/task.json stands for the task


RENDER = """
import sys
from bitladder.params import load_params
from bitladder.report.page import render
sys.addaudithook(lambda event, words: event == "open" and print(words[0]))
render(load_params())
"""


def test_the_page_and_what_mlflow_is_sent_depend_on_all_that_is_drawn(tmp_path, python):
    """Or `dvc repro` may draw the page before, say, the sensitivity of this commit is there."""
    write_project(tmp_path, ["QCS6490"])
    kinds = ("export/tiny", "qat/tiny", "sensitivity")
    for kind in kinds:
        path = tmp_path / f"metrics/{kind}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("layer,weight_min\n")
    done = python(RENDER, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0, done.stderr
    known = {"params.yaml", "dvc.lock"}  # by its keys; what is only shown of the versions
    read = {line for line in done.stdout.splitlines() if line[:1].isalpha()} - known
    assert {f"metrics/{kind}.csv" for kind in kinds} | {"metrics/decision.json"} <= read
    for name in ("report", "track"):
        deps = STAGES[name]["deps"]
        assert not {path for path in read if not any(path == dep or path.startswith(f"{dep}/") for dep in deps)}


def test_no_script_is_without_a_stage():
    scripts = {stage.get("do", stage)["cmd"].split()[1] for stage in STAGES.values()}
    assert scripts == {f"stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def closure(root: Path, script: str) -> set[str]:
    return set(import_closure(root / script, root / "site/bitladder"))


def test_an_import_is_followed_from_file_to_file(tmp_path):
    write(tmp_path, {
        "stages/one.py": 'from bitladder.wall import run\nrun("bitladder.room.door")',
        "site/bitladder/__init__.py": "",
        "site/bitladder/room/__init__.py": "import bitladder.wall",
        "site/bitladder/room/door.py": "def main():\n    import torch\n    from bitladder import hinge",
        "site/bitladder/wall.py": "run = print",
        "site/bitladder/hinge.py": "x = 1",
        "site/bitladder/roof.py": "x = 1",
    })  # fmt: skip
    files = {"bitladder/room/__init__.py", "bitladder/room/door.py", "bitladder/wall.py", "bitladder/hinge.py"}
    assert closure(tmp_path, "stages/one.py") == {"stages/one.py", *files}


def test_a_file_that_is_no_code_comes_with_the_module_that_names_it(tmp_path):
    write(tmp_path, {
        "stages/one.py": "from bitladder.room.door import key\nfrom bitladder.socs import wall",
        "site/bitladder/socs.py": 'open("socs.yaml")',
        "site/bitladder/socs.yaml": "x: 1",
        "site/bitladder/room/door.py": 'open("page.html"), open("a.csv")',
        "site/bitladder/room/hinge.py": 'open("b.csv")',
        "site/bitladder/room/page.html": "x",
        "site/bitladder/room/data/a.csv": "x",
        "site/bitladder/room/data/b.csv": "x",
    })  # fmt: skip
    # socs.yaml is not there: build/soc/ holds what it says of a pipeline's own SoCs
    room = {"bitladder/room/door.py", "bitladder/room/page.html", "bitladder/room/data/a.csv"}
    assert closure(tmp_path, "stages/one.py") == {"stages/one.py", "bitladder/socs.py", *room}


def test_a_table_brings_the_code_that_it_names_to_who_imports_it_and_to_nobody_else(tmp_path):
    write(tmp_path, {
        "stages/one.py": "from bitladder.rooms import DOORS",
        "stages/other.py": "import bitladder.rooms\nfrom bitladder.rooms import load",
        "site/bitladder/rooms.py": 'DOORS = {"front": "bitladder.door:Door"}\nWALLS = {"north": "bitladder.wall:Wall"}',
        "site/bitladder/door.py": "import bitladder.hinge",
        "site/bitladder/hinge.py": "import torch",
        "site/bitladder/wall.py": "import torch",
    })  # fmt: skip
    other = {"stages/other.py", "bitladder/rooms.py"}
    assert closure(tmp_path, "stages/other.py") == other
    one = {"stages/one.py", "bitladder/rooms.py", "bitladder/door.py", "bitladder/hinge.py"}
    assert closure(tmp_path, "stages/one.py") == one


SCRIPTS = {path.stem: set(import_closure(path)) for path in sorted((ROOT / "stages").glob("*.py"))}


@pytest.mark.parametrize(
    ("file", "scripts"),
    [
        ("bitladder/report/page.html", {"report"}),
        ("bitladder/latency/data/published_latency.csv", {"profile", "report"}),
        ("bitladder/latency/estimate.py", {"profile"}),
        ("bitladder/quantize/techniques/gptq.py", {"ptq"}),
        ("bitladder/quantize/qat.py", {"qat"}),
        ("bitladder/quantize/show_w16a16.py", {"verify"}),
        ("bitladder/socs.yaml", set()),
        ("bitladder/commands/cli.py", set()),
        ("bitladder/params.py", set(SCRIPTS)),
    ],
)
def test_an_edit_reruns_the_stages_that_it_matters_to(file, scripts):
    assert {name for name, code in SCRIPTS.items() if file in code} == scripts


def test_the_stages_that_use_a_table_depend_on_all_that_it_names():
    for script, table in (("ptq", TECHNIQUES), ("profile", TARGETS)):
        named = {f"{row.partition(':')[0].replace('.', '/')}.py" for row in table.values()}
        assert named <= SCRIPTS[script]
        assert all((ROOT / "src" / path).is_file() for path in named)


def test_what_a_dropped_rung_leaves_is_known():
    assert {name for name, stage in STAGES.items() if stage.get("foreach") == "${ladder}"} == set(OF_RUNGS)

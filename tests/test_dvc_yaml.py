"""What each stage declares, compared with what its script comes to import and read."""

import os
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bitladder.decision.results import OF_RUNGS
from bitladder.params import TARGETS, TECHNIQUES
from bitladder.running.imports import import_closure
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
    deps = set(stage["deps"])
    script = ROOT / stage["cmd"].split()[1]
    text = script.read_text("utf-8")
    assert ("load_task(" in text) <= ("build/task.json" in deps)
    assert ("load_task(" in text) <= (
        "compute" in stage.get("params", ())
    )  # what it runs of the task has the threads' bits
    assert ("params.soc" in text or "verify(" in text) <= ("src/bitladder/socs.yaml" in deps)


BLOCKS = set(YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8")))


@pytest.mark.parametrize("name", ["judge", "judge-fp16", "compare"])
def test_a_verdict_depends_on_every_block_that_it_reads(name):
    """Of a rung all: its label says whether it is mixed, and the advice names what PTQ and QAT were told."""
    stage = STAGES[name].get("do", STAGES[name])
    modules = import_closure(ROOT / stage["cmd"].split()[1], ROOT) & {
        f"src/bitladder/decision/{module}.py" for module in ("goals", "decide", "advice")
    }
    read = {found for path in modules for found in re.findall(r"params\.(\w+)", (ROOT / path).read_text("utf-8"))}
    read = {block for block in BLOCKS for found in read if found == block or found == f"{block}_of"}
    assert {"goals", "ladder"} <= read
    declared = [word.replace(".${key}", "") for word in stage["params"]]
    # target's figures come with the records; FP16 has no rung of its own
    assert read - {"target"} - ({"ladder"} if name == "judge-fp16" else set()) <= set(declared)


def test_the_manifest_states_the_params_that_the_bundle_depends_on():
    from bitladder.bundle.write import STATED, STATED_OF_TARGET

    stated = {*STATED, *(f"target.{key}" for key in STATED_OF_TARGET)}
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


def test_an_import_is_followed_from_file_to_file(tmp_path):
    for name, text in {
        "stages/one.py": "def main():\n    from bitladder.room import door",
        "src/bitladder/__init__.py": "",
        "src/bitladder/room/__init__.py": "import bitladder.wall",
        "src/bitladder/room/door.py": "import torch",
        "src/bitladder/wall.py": "",
        "src/bitladder/roof.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert import_closure(tmp_path / "stages/one.py", tmp_path) == {
        "stages/one.py",
        "src/bitladder/room/__init__.py",
        "src/bitladder/room/door.py",
    }


def test_with_a_module_comes_what_lies_in_its_package(tmp_path):
    for name in ("src/bitladder/socs.yaml", "src/bitladder/wall.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    for name in ("door.py", "hinge.py", "page.html", "data/a.csv", "__pycache__/a.pyc", ".door.py.swp", ".old/a.csv"):
        (tmp_path / "src/bitladder/room" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src/bitladder/room" / name).write_text("x = 1")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/one.py").write_text("from bitladder.room.door import key\nfrom bitladder import wall")
    assert import_closure(tmp_path / "stages/one.py", tmp_path) == {
        "stages/one.py",
        "src/bitladder/room/door.py",
        "src/bitladder/room/page.html",
        "src/bitladder/room/data/a.csv",
        "src/bitladder/wall.py",
    }


def test_the_stages_that_estimate_latency_depend_on_what_was_published_and_the_page_on_its_template():
    for script in ("profile", "socs", "bundle"):
        assert "src/bitladder/latency/data/published_latency.csv" in import_closure(ROOT / f"stages/{script}.py", ROOT)
    for script in ("report", "track"):
        assert "src/bitladder/report/page.html" in import_closure(ROOT / f"stages/{script}.py", ROOT)


def test_a_table_brings_the_code_that_it_names_to_who_imports_it_and_to_nobody_else(tmp_path):
    for name, text in {
        "stages/one.py": "from bitladder.rooms import DOORS",
        "stages/other.py": "import bitladder.rooms\nfrom bitladder.rooms import load",
        "src/bitladder/rooms.py": 'DOORS = {"front": "bitladder.door:Door"}\nWALLS = {"north": "bitladder.wall:Wall"}',
        "src/bitladder/door.py": "import bitladder.hinge",
        "src/bitladder/hinge.py": "import torch",
        "src/bitladder/wall.py": "import torch",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    other = {"stages/other.py", "src/bitladder/rooms.py"}
    assert import_closure(tmp_path / "stages/other.py", tmp_path) == other
    one = {"stages/one.py", "src/bitladder/rooms.py", "src/bitladder/door.py", "src/bitladder/hinge.py"}
    assert import_closure(tmp_path / "stages/one.py", tmp_path) == one


def test_the_stages_that_use_a_table_depend_on_all_that_it_names():
    for script, table in (("ptq", TECHNIQUES), ("profile", TARGETS), ("socs", TARGETS)):
        named = {f"src/{row.partition(':')[0].replace('.', '/')}.py" for row in table.values()}
        assert named <= import_closure(ROOT / f"stages/{script}.py", ROOT)
        assert all((ROOT / path).is_file() for path in named)


def test_what_a_dropped_rung_leaves_is_known():
    assert {name for name, stage in STAGES.items() if stage.get("foreach") == "${ladder}"} == set(OF_RUNGS)

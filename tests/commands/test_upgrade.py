"""An older version's pipeline brought to this one: its files alone; tests/pipeline/test_upgrade.py runs them."""

import json
import re
import shutil

import pytest
from ruamel.yaml import YAML

from bitladder.commands.init import init, pipeline_files
from bitladder.commands.upgrade import plan_upgrade
from bitladder.errors import UserError
from bitladder.params import load_params
from bitladder.running.version import RELEASE
from support import ROOT

VERSIONS = ROOT / "src/bitladder/template/versions"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give the folder of a pipeline as 0.1.0 wrote it."""
    init(tmp_path)
    for path in (tmp_path / "stages").iterdir():
        path.unlink()
    for name, text in json.loads((VERSIONS / "0.1.0.json").read_text("utf-8")).items():
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}


def test_every_release_but_this_one_is_known():
    """`python ci/keep_template.py` keeps what `init` writes before the version is raised."""
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^## \[([\d.]+)\]", changelog, re.M)
    assert {path.stem for path in VERSIONS.iterdir()} == set(released) - {RELEASE}


def test_files_that_were_not_changed_become_those_of_init(folder):
    plan = plan_upgrade()
    plan.write()
    wanted = pipeline_files()
    # a value stays the user's own where the default has changed
    wanted["params.yaml"] = wanted["params.yaml"].replace("samples: null ", "samples: 1000 ")
    wanted["params.yaml"] = wanted["params.yaml"].replace(
        "{train: 2000, calibration: 1000, evaluation: 2000}", "{train: 3000, calibration: 1000, evaluation: 1000}"
    )
    assert {name: (folder / name).read_text() for name in wanted if name != "task.py"} == {
        name: text for name, text in wanted.items() if name != "task.py"
    }
    assert not (folder / "stages/socs.py").exists()
    assert plan_upgrade() is None


def test_what_the_user_changed_stays_and_the_diff_is_shown(folder):
    params, dvc = folder / "params.yaml", folder / "dvc.yaml"
    params.write_text(
        params.read_text()
        .replace("epochs: 30", "epochs: 7")
        .replace("task.py:task ", "bitladder.tasks.image_folder:task ")
    )
    dvc.write_text(dvc.read_text() + "\n  - my own plot:\n      x: rung\n      y: {metrics/comparison.csv: value}\n")
    plan = plan_upgrade()
    shown = plan.diff().splitlines()
    assert {"+++ dvc.yaml", "--- stages/socs.py", "+++ stages/sources.py"} <= set(shown)
    assert any(line.startswith(f"+bitladder: {RELEASE} ") for line in shown)
    assert not any(line.startswith(("+  epochs", "-  epochs")) for line in shown)
    plan.write()
    loaded = load_params(params)
    assert (loaded.train.epochs, loaded.bitladder) == (7, RELEASE)
    assert loaded.task.factory == "bitladder.tasks.builtin.image_folder:task"
    assert YAML(typ="safe").load(dvc.read_text())["plots"][-1].keys() == {"my own plot"}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("stages/ptq.py", "seed_all(params.seed)", "seed_all(7)", r"^stages/ptq\.py: .*\(seed_all\(7\)\); undo"),
        ("stages/socs.py", "import shutil", "import os", r"^stages/socs\.py: changed by hand.* has no such file"),
        ("dvc.yaml", "- stages/ptq.py", "- stages/mine.py", r"^dvc\.yaml: changed by hand since version 0\.1\.0"),
        ("params.yaml", "bitladder: 0.1.0", "bitladder: 0.0.7", r"0\.0\.7.*: .* from 0\.1\.0, .*, 0\.7\.0;"),
        ("params.yaml", "weights: 4,", "weights: 5,", r"^params\.yaml, brought to .* does not take W5A8"),
        ("params.yaml", "bitladder:", "# bitladder:", r"^params\.yaml: names no version under `bitladder:`"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_named_in_a_line_and_nothing_is_written(folder, name, old, new, message):
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    before = contents(folder)
    with pytest.raises(UserError, match=message) as error:
        plan_upgrade()
    assert "\n" not in str(error.value)
    assert contents(folder) == before


def test_a_file_of_the_users_that_is_in_the_way_is_not_overwritten(folder):
    (folder / "stages/sources.py").write_text("mine = True\n")
    with pytest.raises(UserError, match=r"^stages/sources\.py: is there, and .* has a file of that name"):
        plan_upgrade()


def test_dvc_lock_forgets_stages_that_are_no_more_and_what_they_left(folder):
    out = {"path": "metrics/socs/tiny.json", "hash": "md5", "md5": "0" * 32, "size": 3}
    kept = {"path": "build/task.json", "hash": "md5", "md5": "1" * 32, "size": 3}
    stages = {
        "socs@tiny": {"cmd": "python stages/socs.py tiny", "outs": [out]},
        "task": {"cmd": "python stages/task.py", "outs": [kept]},  # the stage of that name is one a file by now
        "data": {"cmd": "python stages/data.py", "outs": [kept]},
        "ptq@tiny": {"cmd": "python stages/ptq.py tiny", "outs": []},
    }
    with (folder / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, file)
    for path in (out["path"], kept["path"]):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}\n")
    plan_upgrade().write()
    assert list(YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]) == ["data", "ptq@tiny"]
    assert not (folder / "metrics/socs").exists() and (folder / kept["path"]).exists()


def test_an_upgrade_that_was_killed_goes_on(folder):
    plan_upgrade().write()
    done = contents(folder)
    old = json.loads((VERSIONS / "0.1.0.json").read_text("utf-8"))
    for name in ("params.yaml", "stages/verify.py"):  # params.yaml comes last
        (folder / name).write_text(old[name])
    plan_upgrade().write()
    assert contents(folder) == done


def test_a_folder_without_a_pipeline_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"run this in a folder that `init` wrote"):
        plan_upgrade()
    shutil.copy(ROOT / "params.yaml", tmp_path)  # bitladder's own pipeline names no version
    with pytest.raises(UserError, match="names no version"):
        plan_upgrade()

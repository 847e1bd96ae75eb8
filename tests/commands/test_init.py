import subprocess

import pytest
from ruamel.yaml import YAML

from bitladder.commands.init import init
from bitladder.errors import UserError
from bitladder.params import load_params
from bitladder.running.version import RELEASE, load_own_params
from support import DELETED, ROOT


def test_a_pipeline_is_written_into_an_empty_folder(tmp_path):
    folder = tmp_path / "mine"
    written = init(folder)
    assert {"dvc.yaml", "params.yaml", "task.py", "stages/data.py"} <= set(written)
    assert (folder / ".git").is_dir() and (folder / ".dvc/config").is_file()
    params = load_own_params(folder / "params.yaml")
    assert params.task.factory == "task.py:task" and params.bitladder == RELEASE
    stages = YAML(typ="safe").load((folder / "dvc.yaml").read_text())["stages"]
    for stage in (stage.get("do", stage) for stage in stages.values()):
        assert not [path for path in stage["deps"] if path.startswith("src/")]
        assert (folder / stage["cmd"].split()[1]).is_file()
    shown = subprocess.run(["dvc", "stage", "list"], cwd=folder, capture_output=True, text=True, check=False)
    assert "profile@tiny" in shown.stdout, shown.stderr


def test_every_stage_is_in_the_template():
    linked = {path.name for path in (ROOT / "src/bitladder/template/stages").glob("*.py")}
    assert linked == {path.name for path in (ROOT / "stages").glob("*.py")}


def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path):
    (tmp_path / "params.yaml").write_text("mine: true\n")
    with pytest.raises(UserError, match=r"params\.yaml is there already, and is not overwritten"):
        init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    assert (tmp_path / "params.yaml").read_text() == "mine: true\n"


def test_an_existing_repository_keeps_what_it_has(tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("*.secret")
    (tmp_path / "model").mkdir()
    init(tmp_path / "model")
    assert not (tmp_path / "model/.git").exists() and (tmp_path / "model/.dvc").is_dir()
    init(tmp_path)
    assert (tmp_path / ".gitignore").read_text().startswith("*.secret\n__pycache__/\n")


def test_another_bitladder_than_the_pipelines_own_is_refused(params_with):
    with pytest.raises(
        UserError,
        match=r"written for version 0\.1\.0\+other, and .* is installed; run `bitladder upgrade`, or install",
    ):
        load_own_params(params_with({"bitladder": "0.1.0+other", "target.max_gap": DELETED}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.factory": "own/task.py:task"}, r"task: task\.files: add `code: own/task\.py`"),
        ({"task.files": {}}, r"task\.files: "),
    ],
)
def test_a_task_whose_code_is_not_hashed_is_refused(params_with, changes, message):
    with pytest.raises(UserError, match=message):
        load_params(params_with(changes))


def test_a_folder_of_task_files_covers_what_lies_in_it(params_with):
    changes = {"task.factory": "own/task.py:task", "task.files": {"all": "own"}}
    assert load_params(params_with(changes)).task.factory == "own/task.py:task"

"""Each example: the same files, params that are taken, and a task that loads where its package is installed."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from bitladder.commands.init import init
from bitladder.errors import UserError
from bitladder.running.version import load_own_params
from support import ROOT

EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir())


def packages(name):
    text = (ROOT / "examples" / name / "README.md").read_text("utf-8")
    return " ".join(re.findall(r"(?m)^    pip install (?:--no-deps )?(.+)$", text)).split()


def test_there_are_examples_and_each_has_its_row_of_what_was_measured():
    rows = (ROOT / "docs/benchmarks.md").read_text("utf-8").splitlines()
    assert len(EXAMPLES) > 4
    assert [name for name in EXAMPLES if not any(row.startswith(f"| {name} |") for row in rows)] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_the_files_of_all_and_its_readme_the_commands(name):
    folder = ROOT / "examples" / name
    assert {path.name for path in folder.iterdir() if path.is_file()} == {"README.md", "params.yaml", "task.py"}
    text = (folder / "README.md").read_text("utf-8")
    assert f"bitladder init ../{name} --from examples/{name}\n" in text and "python task.py" in text and packages(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_params_are_taken_and_its_task_loads_where_its_package_is(name, tmp_path):
    folder = tmp_path / name
    init(folder, ROOT / "examples" / name)
    params = load_own_params(folder / "params.yaml")
    assert params.task.factory == "task.py:task" and params.train.epochs == 0
    for package in packages(name):
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
    for words in (["task.py"], ["-m", "bitladder.commands.cli", "check"], ["-c", LOAD]):
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Task(")


LOAD = """
from pathlib import Path
from bitladder.running.version import load_own_params
from bitladder.tasks.task import load_task
task = load_own_params(Path("params.yaml")).task
print(load_task(task.factory, task.args))
"""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"task\.py: No such file or directory; an example has a task\.py and a params\.yaml"),
        ({"task.py": ""}, r"params\.yaml: No such file"),
        ({"task.py": "", "params.yaml": "a: ["}, r"params\.yaml: not YAML"),
        ({"task.py": "", "params.yaml": "words"}, r"params\.yaml: holds no keys"),
    ],
)
def test_a_folder_that_is_no_example_is_refused_and_nothing_is_written(files, message, tmp_path):
    (tmp_path / "example").mkdir()
    for name, text in files.items():
        (tmp_path / "example" / name).write_text(text)
    with pytest.raises(UserError, match=message):
        init(tmp_path / "new", tmp_path / "example")
    assert not (tmp_path / "new").exists()


def test_only_the_keys_of_the_example_differ_from_a_new_pipelines(tmp_path):
    (tmp_path / "example").mkdir()
    (tmp_path / "example/task.py").write_text("# mine\n")
    (tmp_path / "example/params.yaml").write_text(
        "task: {args: {samples: 7}, files: {net: a.onnx}}\ntrain: {epochs: 0}\n"
    )
    init(tmp_path / "from", tmp_path / "example")
    init(tmp_path / "new")
    own, new = (load_own_params(tmp_path / one / "params.yaml") for one in ("from", "new"))
    assert own.task.args == {"samples": 7} and own.task.files == {"code": "task.py", "net": "a.onnx"}
    assert own.train.epochs == 0 and (tmp_path / "from/task.py").read_text() == "# mine\n"
    same = {"task": new.task, "train": new.train}
    assert own.model_copy(update=same) == new

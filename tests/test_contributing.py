"""CONTRIBUTING.md followed to the letter in copies of the project; its picture and tables held to what they are of."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bitladder.running.imports import import_closure
from bitladder.running.version import RELEASE
from support import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
BLOCK = re.compile(r"^([^\n]*)\n```(\w+)\n(.*?)^```$", re.M | re.S)
COPIED = ("src", "stages", "params.yaml", "pyproject.toml")


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^##|\Z)", TEXT, re.M | re.S)
    assert found, f"CONTRIBUTING.md has no section {title!r}"
    return found[1]


def run(folder: Path, *words: str) -> str:
    """Run a command in a copy, with the copy's code first; give what it printed."""
    paths = [folder / "src", ROOT / "tests", ROOT / "tests/targets"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def check(folder: Path, what: str) -> None:
    run(folder, sys.executable, "-c", f"import contributed; contributed.{what}()")


class House:
    """A copy of the project in which a section of CONTRIBUTING.md has been followed, but for its commands."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.new = folder, []
        self.commands = re.findall(r"^`(bitladder .*)`$", section(title), re.M)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
            else:
                shutil.copy(ROOT / name, folder / name)
        blocks = BLOCK.findall(section(title))
        assert blocks
        for line, _, text in blocks:
            path, how = re.fullmatch(r"`([^`]+)`, (.*):", line).groups()
            {"a new file": self._write, "a row after the one shown first": self._put_in}[how](folder / path, text)
        for keys in re.findall(r"^In `params\.yaml`: `(.*)`$", section(title), re.M):
            self._set(folder / "params.yaml", keys)

    def _write(self, path: Path, text: str) -> None:
        assert not path.exists()
        path.write_text(text)
        self.new.append(path.relative_to(self.folder).as_posix())

    def _put_in(self, path: Path, text: str) -> None:
        before, shown = path.read_text("utf-8"), text.splitlines(keepends=True)[0]
        assert before.count(shown) == 1
        path.write_text(before.replace(shown, text))

    def _set(self, path: Path, text: str) -> None:
        yaml = YAML(typ="safe", pure=True)
        values = yaml.load(path)
        for block, keys in yaml.load(text).items():
            assert set(keys) <= set(values[block])
            values[block] |= keys
        yaml.dump(values, path)

    def users(self) -> set[str]:
        """Name the stages that depend on all that was written anew."""
        new, package = {name.removeprefix("src/") for name in self.new}, self.folder / "src/bitladder"
        scripts = (self.folder / "stages").glob("*.py")
        return {path.stem for path in scripts if new <= set(import_closure(path, package))}


@pytest.fixture
def follow(tmp_path):
    return lambda title: House(tmp_path, title)


@pytest.mark.parametrize("title", ["A task", "A PTQ technique", "A target", "A rule for the NPU", "A SoC"])
def test_what_is_added_passes_the_lint_and_the_check_of_params(follow, title):
    house = follow(title)
    run(house.folder, "ruff", "check", "--quiet", "src")
    run(house.folder, "ruff", "format", "--quiet", "--check", "src")
    run(house.folder, "bitladder", "check")


def test_a_task_as_it_is_shown(follow):
    house = follow("A task")
    check(house.folder, "task")
    (command,) = house.commands
    said = run(house.folder, *command.split())
    assert "all on the NPU of SM8650" in said and "warning" not in said


def test_a_technique_as_it_is_shown(follow):
    house = follow("A PTQ technique")
    check(house.folder, "technique")
    assert house.users() == {"ptq"}


def test_a_target_as_it_is_shown(follow):
    house = follow("A target")
    check(house.folder, "target")
    assert house.users() == {"profile"}


def test_a_rule_as_it_is_shown(follow):
    house = follow("A rule for the NPU")
    check(house.folder, "rule")
    assert house.users() == {"export", "fp16"}


def test_a_soc_as_it_is_shown(follow):
    house = follow("A SoC")
    params = house.folder / "params.yaml"
    params.write_text(params.read_text().replace("soc: SM8650", "soc: Snapdragon 8s Gen 4"))
    assert "good. Snapdragon 8s Gen 4 on hexagon-emulator" in run(house.folder, "bitladder", "check")
    (command,) = house.commands
    said = run(house.folder, *command.split())
    assert "W4A8   yes, as SM8735 v73" in said and "otherwise" not in said
    shutil.copy(ROOT / "src/bitladder/socs.yaml", house.folder / "src/bitladder/socs.yaml")
    with pytest.raises(AssertionError, match="'Snapdragon 8s Gen 4' is not a known SoC"):
        run(house.folder, "bitladder", "check")


def test_the_picture_is_the_pipelines():
    """Each arrow is a dependency of dvc.yaml, each dependency an arrow or a way along several."""
    stages = {
        name: stage.get("do", stage)
        for name, stage in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"].items()
    }
    makes = [(own(path), drawn(name)) for name, stage in stages.items() for path in written(stage)]
    real = {
        (maker, drawn(name))
        for name, stage in stages.items()
        for dep in map(own, stage["deps"])
        for path, maker in makes
        if path == dep or path.startswith(f"{dep}/")
    }
    real = {(maker, reader) for maker, reader in real if maker not in ("sources", reader)}
    (picture,) = (text for _, kind, text in BLOCK.findall(section("How the house is laid out")) if kind == "mermaid")
    arrows = defaultdict(set)
    for line in picture.splitlines():
        nodes = [part.split("&") for part in re.split(r"-->|-\. .* \.->", line)]
        for maker, reader in ((m, r) for ms, rs in pairwise(nodes) for m in ms for r in rs):
            arrows[maker.strip()].add(reader.strip())
    assert {(maker, reader) for maker, readers in arrows.items() for reader in readers} <= real
    for maker, reader in real:
        assert reader in reached(arrows, maker), f"{maker} -> {reader}"


def drawn(stage: str) -> str:
    return stage.removesuffix("-fp16").removesuffix("-file")


def own(path: str) -> str:
    """Name a file of any rung alike, and of FP16."""
    return re.sub(r"\$\{item\.after\}|\$\{key\}|(?<=/)fp16\b", "R", path)


def written(stage: dict) -> list[str]:
    listed = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, ())]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


def reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    found, waiting = set(), [start]
    while waiting:
        for name in arrows.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


def test_every_module_and_package_has_its_place():
    named = set(re.findall(r"`([\w.]+)/?`", section("How the house is laid out")))
    package = ROOT / "src/bitladder"
    there = {path.name for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert there - {"__init__.py", "__pycache__"} <= named
    assert {name for name in named if name.endswith(".py")} <= there


def test_the_table_has_every_direct_dependency_and_no_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.match(r"[\w.-]+", one)[0] for one in wanted} - {"bitladder"}
    rows = re.findall(r"^\| (`.*?`) \|", section("Dependencies"), re.M)
    listed = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(listed) == sorted(names)


def test_the_newest_release_of_the_changelog_is_the_version():
    released = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert released[0] == RELEASE

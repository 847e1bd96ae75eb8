"""`bitladder init`: a ready pipeline in a user's own repository, made from the files of this one."""

import io
import re
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bitladder.errors import UserError
from bitladder.running.files import write_text
from bitladder.running.git import ask_git, run_git
from bitladder.running.version import RELEASE

__all__ = ["init", "pipeline_files"]

DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"

NULL = "tag:yaml.org,2002:null"  # written out, where ruamel.yaml would leave nothing

IGNORED = {
    ".gitignore": ("__pycache__/", "/build/", "/deploy/", "/reports/", "/mlflow.db", "/.mlflow.db.*", "/mlruns/"),
    ".dvcignore": ("__pycache__", "*.pyc"),
}


def init(folder: Path, example: Path | None = None) -> list[str]:
    """Write dvc.yaml, params.yaml, stages/ and a task file into a folder; make it a git and DVC repository.

    Nothing is overwritten: .gitignore and .dvcignore are added to, any other file that is there is a UserError, and
    then nothing is written. An `example` is a folder with a task.py, further scripts if it has any, and a params.yaml
    of the keys that it sets.

    Returns: the files written, from the folder.
    """
    contents = pipeline_files()
    if example is not None:
        contents |= _of_example(example, contents["params.yaml"])
    if taken := sorted(name for name in contents if (folder / name).exists()):
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UserError(f"{folder / taken[0]}{more} is there already, and is not overwritten; choose another folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    root = _git_root(folder)
    if root is None:
        run_git("init", "--quiet", folder=folder)
        root = folder.resolve()
    if not (folder / ".dvc").exists():
        subdirectory = () if root == folder.resolve() else ("--subdir",)
        _init_dvc(folder, *subdirectory)
        write_text(folder / ".dvc/config", DVC_CONFIG)
    for name, text in contents.items():
        write_text(folder / name, text)
    for name, lines in IGNORED.items():
        there = (folder / name).read_text("utf-8") if (folder / name).exists() else ""
        missing = [line for line in lines if line not in there.splitlines()]
        write_text(folder / name, there + "\n" * (there[-1:] not in ("", "\n")) + "".join(f"{x}\n" for x in missing))
    return list(contents)


def _user_params(text: str) -> str:
    """Make this project's params.yaml one that names the user's task file and the bitladder that is installed."""
    task = (
        "task:                     # what is quantized\n"
        "  factory: task.py:task   # path/to/file.py:name or package.module:name, called with args\n"
        "  files: {code: task.py}  # what it is made of (code, weights, folders of data): DVC hashes these\n"
        "  args: {}\n"
    )
    text, found = re.subn(r"(?m)^task:.*\n(?:  .*\n)+", task, text)
    assert found == 1
    version = f"bitladder: {RELEASE}          # written for this version; `bitladder upgrade` raises it\n"
    return text.replace("seed:", f"{version}seed:", 1)


def pipeline_files() -> dict[str, str]:
    """Give what `init` writes, by name: dvc.yaml, params.yaml, stages/, task.py."""
    with as_file(files("bitladder").joinpath("template")) as template:
        found = {
            path.relative_to(template).as_posix(): path.read_text("utf-8")
            for path in sorted(template.glob("**/*"))
            if path.is_file() and path.suffix in (".py", ".yaml")
        }
    found["params.yaml"] = _user_params(found["params.yaml"])
    return found


def _of_example(example: Path, params: str) -> dict[str, str]:
    """Give the example's task.py and other scripts, and a params.yaml with its keys set."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL, "null"))
    values, written = yaml.load(params), io.StringIO()
    path = example / "params.yaml"
    try:
        names = sorted({"task.py", *(one.name for one in example.glob("*.py"))})
        scripts = {name: (example / name).read_text("utf-8") for name in names}
        own = yaml.load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; an example has a task.py and a params.yaml") from None
    except YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(own, Mapping):
        raise UserError(f"{path}: holds no keys")
    _set_keys(values, own)
    yaml.dump(values, written)
    return {**scripts, "params.yaml": written.getvalue()}


def _set_keys(values: MutableMapping[str, Any], own: Mapping[str, Any]) -> None:
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), MutableMapping):
            _set_keys(values[key], value)
        else:
            values[key] = value


def _git_root(folder: Path) -> Path | None:
    found = ask_git("rev-parse", "--show-toplevel", folder=folder)
    return Path(found.strip()).resolve() if found is not None else None


def _init_dvc(folder: Path, *options: str) -> None:
    words = [sys.executable, "-m", "dvc", "init", "--quiet", *options]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{folder}: `dvc init` failed: {' '.join(done.stderr.split())[:300]}")

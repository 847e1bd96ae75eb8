"""Where a task's code lies, how it is imported, and what of its errors a user is shown."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bitladder.errors import UserError
from bitladder.params import names_file
from bitladder.running.explain import shown, user_line

__all__ = ["check_factory", "check_files", "find_factory", "user_code"]


def check_factory(factory: str, folder: Path) -> None:
    """Refuse a factory whose file or package is not there, without importing it, as that may take torch and seconds.

    Args:
        factory: as `find_factory` takes it.
        folder: that holds params.yaml.

    """
    source = factory.rpartition(":")[0]
    if names_file(source):
        _check_file(Path(source), folder)
        return
    package = source.partition(".")[0]
    try:
        # To look into a package is to import it, which is cheap of bitladder's own alone
        found = importlib.util.find_spec(source if package == "bitladder" else package)
    except (ModuleNotFoundError, ValueError) as error:
        raise UserError(f"task.factory: cannot import {source!r} ({error})") from None
    if found is None:
        raise UserError(f"task.factory: cannot import {source!r}: there is no such module; is its package installed?")


def check_files(files: Mapping[str, str], folder: Path) -> None:
    """Refuse a file of `task.files` that is not there, and that DVC would not bring.

    Args:
        files: paths by key.
        folder: that holds params.yaml.

    """
    for key, name in files.items():
        tracked = Path(f"{name}.dvc")
        if not (folder / name).exists() and not (folder / tracked).exists():
            raise UserError(
                f"task.files.{key}: {name}: no such file or folder; the path is from the folder that holds params.yaml"
            )


def find_factory(factory: str) -> Callable[..., Any]:
    """Import `package.module:name` or `path/to/file.py:name`. Raise UserError that says which part is wrong."""
    source, _, name = factory.rpartition(":")
    if names_file(source):
        module = _import_file(Path(source))
    else:
        try:
            with user_code(f"task.factory: importing {source}", passing=(ModuleNotFoundError,)):
                module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise UserError(f"task.factory: cannot import {source!r} ({error})") from None
    made = getattr(module, name, None)
    if made is None:
        raise UserError(f"task.factory: {source!r} has no {name!r}")
    if not callable(made):
        raise UserError(f"task.factory: {name!r} of {source!r} must be a function that returns a Task")
    return made


def _import_file(path: Path) -> ModuleType:
    name = f"task_file_{path.stem}"
    _check_file(path, Path())
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec and spec.loader
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for modules that lie beside it
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with user_code(f"task.factory: importing {path}"):
        spec.loader.exec_module(module)
    return module


def _check_file(path: Path, folder: Path) -> None:
    if not (folder / path).is_file():
        raise UserError(f"task.factory: {path}: no such file; the path is from the folder that holds params.yaml")


@contextmanager
def user_code(
    what: str, passing: tuple[type[Exception], ...] = (), kind: type[UserError] = UserError
) -> Iterator[None]:
    """Turn an exception in code that the user wrote into a UserError of one line, with the line where it happened.

    Args:
        what: fails.
        passing: exceptions that stay what they are.
        kind: RefusedError where what fails is a rung, and not the task.

    """
    try:
        yield
    except Exception as error:  # the user's code may raise anything
        if isinstance(error, (UserError, *passing)):
            raise
        text = f"{what} fails with {type(error).__name__}: {shown(error)}{user_line(error)}"
        raise kind(text if what.startswith("task") else f"task: {text}") from error

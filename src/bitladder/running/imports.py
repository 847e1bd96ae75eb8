"""What a stage's script comes to import of bitladder, followed from file to file: DVC follows no imports.

Three things are followed besides imports:

- A script names its module in bitladder.stages by a string, and so does a table such as
  `TARGETS = {"ai-hub": "bitladder.targets.aihub:AiHub"}`: a file that imports the table comes to import what it names.
- A file that is not code (`page.html`, `published_latency.csv`) comes with the modules of its package that name it.
- `socs.yaml` does not: a pipeline depends on what it says of the SoCs that are measured (`build/soc/`), or a row for a
  new one would rerun every pipeline.
"""

import ast
import re
from functools import cache
from pathlib import Path

from bitladder.paths import PACKAGE

__all__ = ["import_closure", "module_closure"]

_ROW = re.compile(r"(bitladder(?:\.\w+)+)(?::\w+)?")


def import_closure(script: Path, package: Path = PACKAGE) -> dict[str, Path]:
    """Give the script, and what it comes to import of bitladder, by names that are the same on every machine.

    Args:
        script: a stage's.
        package: the folder of the installed package.

    Returns: path by name, such as `stages/ptq.py` and `bitladder/quantize/ptq.py`.

    """
    named = {row[1] for text in _texts(_parsed(script)) if (row := _ROW.fullmatch(text))}
    found = {f"{script.parent.name}/{script.name}": script}
    for module in sorted(_imported(script) | named):
        found |= module_closure(module, package)
    return found


@cache
def module_closure(module: str, package: Path = PACKAGE) -> dict[str, Path]:
    """Give a module's file, and what it comes to import of bitladder; nothing for a module of another package."""
    found: dict[str, Path] = {}
    waiting = _named(module, package) if module.partition(".")[0] == "bitladder" else []
    while waiting:
        path = waiting.pop()
        name = f"bitladder/{path.relative_to(package).as_posix()}"
        if name in found:
            continue
        found[name] = path
        found |= {f"bitladder/{data.relative_to(package).as_posix()}": data for data in _data(path, package)}
        for imported in sorted(_imported(path)):
            waiting += _named(imported, package)
    return found


def _named(name: str, package: Path) -> list[Path]:
    """Give the files that an import of a name brings: the module's own, and those that it names if it is a table."""
    owner, _, table = name.rpartition(".")
    rows = {row for file in _files(owner, package) for row in _rows(file, table)} if owner else set()
    return [path for module in (name, *sorted(rows)) for path in _files(module, package)]


@cache
def _files(module: str, package: Path) -> tuple[Path, ...]:
    """Give a module's file, if there is one, and its packages' own."""
    parts = module.split(".")[1:]
    packages = [package.joinpath(*parts[:depth], "__init__.py") for depth in range(len(parts) + 1)]
    candidates = (package.joinpath(*parts).with_suffix(".py") if parts else packages[0], *packages)
    return tuple(path for path in candidates if path.exists() and path.stat().st_size)


@cache
def _data(module: Path, package: Path) -> list[Path]:
    """Give the files of a module's own package that it names: by their name alone, as a string."""
    if module.parent == package:
        return []
    texts = _texts(_parsed(module))
    return [path for path in sorted(module.parent.rglob("*")) if path.name in texts and path.is_file()]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def _imported(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in modules if module.split(".")[0] == "bitladder"}


@cache
def _rows(path: Path, name: str) -> set[str]:
    """Name the modules in a table of a file, where `name` is one."""
    tables = (
        node.value
        for node in _parsed(path).body
        if isinstance(node, ast.Assign) and name in {getattr(target, "id", None) for target in node.targets}
    )
    return {row[1] for table in tables for text in _texts(table) if ":" in text and (row := _ROW.fullmatch(text))}


def _texts(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}

"""What a script comes to import of bitladder, followed from file to file: DVC follows no imports.

With a module comes what else lies in its package (`latency/data`, `report/page.html`), but for bitladder's own:
`socs.yaml` matters to some of those who import `socs.py`, which are all.

A table such as `TARGETS = {"ai-hub": "bitladder.targets.aihub:AiHub"}` names code that is imported by these names: a
file that imports the table from another comes to import that code too.
"""

import ast
import re
from functools import cache
from pathlib import Path

__all__ = ["import_closure"]

SRC = Path("src")

DATA = (".csv", ".html", ".json", ".txt", ".yaml")  # and not what editors and systems leave beside them

_ROW = re.compile(r"(bitladder(?:\.\w+)+):\w+")


def import_closure(script: Path, root: Path) -> set[str]:
    """Give the paths, from the project's root, of the script, and of what it comes to import of bitladder."""
    found: set[str] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        found.add(name)
        found |= _data(path.parent, root)
        for module in _imported(path):
            waiting += _files(module, root)
            table = module.rpartition(".")
            for owner in _files(table[0], root):
                waiting += [code for row in _rows(owner, table[2]) for code in _files(row, root)]
    return found


@cache
def _files(module: str, root: Path) -> list[Path]:
    """Give a module's file, if there is one, and its packages' own."""
    parts = module.split(".")
    packages = [(root / SRC).joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    candidates = ((root / SRC).joinpath(*parts).with_suffix(".py"), *packages)
    return [path for path in candidates if path.exists() and path.stat().st_size]


@cache
def _data(package: Path, root: Path) -> set[str]:
    """Give what is not code in a package within bitladder's own."""
    if package.parent != root / SRC / "bitladder":
        return set()
    names = {path.relative_to(package) for path in package.rglob("*") if path.suffix in DATA and path.is_file()}
    hidden = {name for name in names if any(part.startswith(".") for part in name.parts)}
    return {(package / name).relative_to(root).as_posix() for name in names - hidden}


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
    found: set[str] = set()
    for node in _parsed(path).body:
        if isinstance(node, ast.Assign) and name in {getattr(target, "id", None) for target in node.targets}:
            texts = {one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)}
            found |= {row[1] for text in texts if isinstance(text, str) and (row := _ROW.fullmatch(text))}
    return found

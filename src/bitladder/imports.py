"""What a script comes to import of bitladder, followed from file to file: DVC follows no imports."""

import ast
from functools import cache
from pathlib import Path

__all__ = ["import_closure"]

SRC = Path("src")


def import_closure(script: Path, root: Path) -> set[str]:
    """Give the paths, from the project's root, of the script and of all bitladder modules that it comes to import."""
    found: set[str] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        found.add(name)
        for module in _imported(path):
            parts = module.split(".")
            packages = [(root / SRC).joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
            for candidate in ((root / SRC).joinpath(*parts).with_suffix(".py"), *packages):
                if candidate.exists() and candidate.stat().st_size:
                    waiting.append(candidate)
    return found


@cache
def _imported(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in modules if module.split(".")[0] == "bitladder"}

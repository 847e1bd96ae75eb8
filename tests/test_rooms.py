"""The data's way through the rooms goes one way: a module never imports a later room."""

import ast
from pathlib import Path

import pytest

from support import ROOT

SRC = ROOT / "src/bitladder"

ROOMS = (
    {"errors", "paths", "precision", "socs", "validation"},
    {"params"},
    {"running"},
    {"statistics"},
    {"records"},
    {"tasks"},
    {"network"},
    {"htp"},
    {"quantize"},
    {"export"},
    {"latency"},
    {"targets"},
    {"decision"},
    {"report"},
    {"bundle"},
    {"stages"},
    {"commands"},
)

ONLY = {
    "aimet_torch": "quantize",
    "aimet_onnx": "quantize",
    "mlflow": "report",
    "onnxruntime_qnn": "targets",
    "ray": "running",
}

MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts): path
    for path in sorted(SRC.rglob("*.py"))
    if "template" not in path.parts and path.stat().st_size
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "bitladder":
            found |= {f"bitladder.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def rank(name: str) -> int:
    return next(index for index, room in enumerate(ROOMS) if name.split(".")[0] in room)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_no_later_room(name):
    own = {found.removeprefix("bitladder.") for found in imports(MODULES[name]) if found.startswith("bitladder.")}
    assert not {found for found in own if rank(found) > rank(name)}


@pytest.mark.parametrize("library", ONLY)
def test_a_heavy_library_has_one_room(library):
    users = {name.split(".")[0] for name, path in MODULES.items() if any(_is_of(library, one) for one in imports(path))}
    assert users == {ONLY[library]}


def _is_of(library: str, module: str) -> bool:
    return module.split(".")[0] == library


def test_ai_hub_needs_no_backend_on_this_machine(python):
    done = python("import sys, bitladder.targets.aihub; print('onnxruntime_qnn' in sys.modules)")
    assert done.stdout == "False\n", done.stderr

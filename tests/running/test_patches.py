"""Patches of other packages' code: in force with what is locked, off with a line elsewhere, and none forgotten."""

import ast
import sys
from functools import cache
from pkgutil import resolve_name

import pytest

from bitladder.errors import UserError
from bitladder.running import patches
from bitladder.running.determinism import ESTIMATED
from bitladder.running.patches import PATCHES, PRIVATE, in_force, require
from support import ROOT

SRC = ROOT / "src/bitladder"

NOT_LOCKED = {"ai-hub-submit"}  # its client has an environment of its own: tests/targets/test_aihub.py

OWN_MODULES = {"running/forkserver.py", "tasks/source.py"}  # load and forget modules of ours, and of the user's

EVERY_OTHER = """
from bitladder.running import patches
installed = patches.installed
patches.installed = lambda package: "2.43.0" if package == "aimet-torch" else installed(package)
"""

QUANTIZE = """
import hashlib, sys, torch
from pathlib import Path
from torch import nn
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.lean import plain_tensors
from bitladder.quantize.sim.sim import build_sim

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
x = torch.rand(1, 3, 8, 8)
model, _ = prepare(model, (x,))
sim = build_sim(model, (x,), Precision(4, 8), "htp_v75")
sim.aimet.compute_encodings(lambda model: model(x))
sim = sim.copy()
with plain_tensors():
    loss = sim.model(x).square().mean()
    loss.backward()
sim.export_qdq((x,), (["image"], ["y"]), Path("model.onnx"))
print("loss", loss.item().hex())
print("graph", hashlib.sha256(Path("model.onnx").read_bytes()).hexdigest())
"""

WHOSE = """
from pkgutil import resolve_name
from bitladder.running.patches import PATCHES
for name in ("lean-quantizers", "aimet-export", "small-scales", "prequantized"):
    for replaced in PATCHES[name].replaces:
        print(replaced, resolve_name(replaced).__module__.partition(".")[0])
print("loaded", "bokeh" in sys.modules)
"""


@pytest.fixture
def another(monkeypatch):
    """Give a function that makes a package be of another version, as far as patches see."""

    def install(package: str, version: str | None) -> None:
        own = patches.installed
        monkeypatch.setattr(patches, "installed", lambda name: version if name == package else own(name))
        in_force.cache_clear()

    yield install
    in_force.cache_clear()


@pytest.mark.parametrize("name", sorted(PATCHES.keys() - NOT_LOCKED))
def test_a_patch_is_in_force_with_the_locked_versions(name, capsys):
    if "ray" in PATCHES[name].checked and not patches.installed("ray"):
        pytest.skip("Ray is not installed: pip install 'bitladder[ray]'")
    in_force.cache_clear()
    assert in_force(name)
    require(name)
    assert capsys.readouterr().err == ""
    locked = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if "==" in line
    )
    assert all(patches.fnmatchcase(locked[package], pattern) for package, pattern in PATCHES[name].checked.items())


@pytest.mark.parametrize("name", PATCHES)
def test_with_another_version_it_is_off_and_says_so_once(name, another, capsys):
    package, pattern = next(iter(PATCHES[name].checked.items()))
    another(package, "99.1.0")
    assert not in_force(name) and not in_force(name)
    said = capsys.readouterr().err
    assert said == (
        f"patch {name} is off: checked with {package} {pattern}, and 99.1.0 is installed; {PATCHES[name].off}\n"
    )
    with pytest.raises(UserError, match=rf"^{name} is off: .*; or pip install '{package}=="):
        require(name)


@pytest.mark.parametrize(
    ("version", "on"), [("2.42.0", True), ("2.42.1+cu128", True), ("2.4.2", False), ("2.420.0", False), (None, False)]
)
def test_which_versions_a_patch_is_checked_with(version, on, another):
    another("aimet-torch", version)
    assert in_force("lean-quantizers") is on


def test_what_a_patch_says_it_replaces_is_replaced_in_force_and_left_alone_when_off(python, tmp_path):
    found = {}
    for way, code in {"bitladder": "", "aimet_torch": EVERY_OTHER}.items():
        (tmp_path / way).mkdir()
        found[way] = python(code + QUANTIZE + WHOSE, cwd=tmp_path / way)
        lines = dict(line.rsplit(" ", 1) for line in found[way].stdout.splitlines() if line.count(" ") == 1)
        for name in ("lean-quantizers", "aimet-export", "small-scales", "prequantized"):
            for replaced in PATCHES[name].replaces:
                assert lines[replaced] == way, found[way].stderr
        # which AIMET's import brings along
        assert lines["loaded"] == str(way == "aimet_torch")
    ours, aimets = found.values()
    assert "is off" not in ours.stderr
    said = [
        line for line in aimets.stderr.splitlines() if "is off: checked with aimet-torch 2.42.*, and 2.43.0" in line
    ]
    assert sorted(line.split()[1] for line in said) == [
        "aimet-export",
        "aimet-import",
        "lean-quantizers",
        "prequantized",
        "small-scales",
    ]
    # the loss of a forward pass and the exported graph, to the bit
    assert ours.stdout.splitlines()[:2] == aimets.stdout.splitlines()[:2]


def test_what_cannot_do_without_dvcs_internals_is_refused_in_a_line(another, tmp_path, monkeypatch):
    from bitladder.commands.heal import check_lock, heal, heal_lock
    from bitladder.commands.push import push
    from bitladder.commands.sweep import sweep
    from bitladder.report.revisions import cached_file

    (tmp_path / "dvc.lock").write_text((ROOT / "dvc.lock").read_text("utf-8"), "utf-8")
    monkeypatch.chdir(tmp_path)
    another("dvc", "3.70.0")
    for refused in (push, heal, lambda: sweep(["seed=0,1"], 1)):
        with pytest.raises(
            UserError, match=r"^dvc-\w+ is off: checked with dvc 3\.67\.\*, and 3\.70\.0 is installed; "
        ):
            refused()
    # these can: less strictly, or as if nothing were there
    check_lock()
    assert heal_lock() == []
    assert cached_file("0" * 32) is None
    (tmp_path / "dvc.lock").write_text("stages: {a: 1}", "utf-8")
    with pytest.raises(UserError, match=r"dvc\.lock: damaged"):
        check_lock()


def test_it_starts_without_what_it_is_about(python):
    done = python("import sys, bitladder.running.patches; print({'torch', 'aimet_torch', 'dvc'} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stderr


def test_no_place_that_replaces_others_code_is_missing():
    from bitladder.quantize.sim.aimet import _STAND_INS

    stand_ins = {*_STAND_INS, "triton"}  # which stands for itself where there is a GPU
    standard = {*sys.stdlib_module_names, "bitladder"}
    written = {name for module in _modules() for name in _written(module)}
    listed = {name for patch in PATCHES.values() for name in patch.replaces}
    in_torchs_table = {f"torch.ops.aten.{name}" for name in ESTIMATED}  # put there by a call
    assert {name for name in written if name.split(".")[0] not in standard} == listed - stand_ins - in_torchs_table
    assert in_torchs_table <= listed
    assert stand_ins <= listed
    load = {module for module in _modules() if "sys.modules" in _written(module)}
    assert load == {"quantize/sim/aimet.py", *OWN_MODULES}


def test_no_private_name_of_others_is_missing():
    listed = {*PRIVATE, *(name for patch in PATCHES.values() for name in (*patch.replaces, *patch.calls))}
    private = {part for name in listed for part in name.split(".") if part.startswith("_")}
    found = {name for module in _modules() for name in _private_names(module)}
    assert found - {"_asdict", "_replace"} == private - {"_dynamo"}  # documented of named tuples; named as text alone


@pytest.mark.parametrize("name", [*PRIVATE, *(name for patch in PATCHES.values() for name in patch.calls)])
def test_what_is_called_is_there(name):
    import torch
    from aimet_onnx.common.libquant_info import QcQuantizeInfo
    from aimet_onnx.qc_quantize_op import OpMode, QcQuantizeOp
    from aimet_torch.quantization.affine import QuantizeDequantize
    from torchmetrics import SumMetric

    owner, _, attribute = name.rpartition(".")
    with_own = {  # attributes of instances
        "torchmetrics.Metric": SumMetric,
        "aimet_onnx.qc_quantize_op.QcQuantizeOp": lambda: QcQuantizeOp(QcQuantizeInfo(), op_mode=OpMode.passThrough),
        "torch.nn.Conv2d": lambda: torch.nn.Conv2d(1, 1, 1),
        "aimet_torch.quantization.affine.QuantizeDequantize": lambda: QuantizeDequantize((), 8, True),
    }
    there = with_own[owner]() if owner in with_own else resolve_name(owner)
    assert hasattr(there, attribute)


@cache
def _modules() -> dict[str, list[ast.AST]]:
    """Give every node of each module's code, by its path."""
    paths = (path for path in sorted(SRC.rglob("*.py")) if "template" not in path.parts)
    return {path.relative_to(SRC).as_posix(): list(ast.walk(ast.parse(path.read_text("utf-8")))) for path in paths}


def _written(module: str) -> set[str]:
    """Give dotted names of others' that a module assigns to, or to an item of, or deletes."""
    nodes, imported = _modules()[module], {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.split(".")[0]
                imported[alias.asname or bound] = bound
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            while isinstance(node, ast.Subscript):
                node = node.value
            root, _, rest = ast.unparse(node).partition(".")
            if root in imported:
                found.add(f"{imported[root]}.{rest}".removesuffix("."))
    return found


def _private_names(module: str) -> set[str]:
    """Give private names that a module reads, and that no module of ours defines."""
    nodes = _modules()[module]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    read |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return {name for name in read - _own_names() - {"_exit"} if name.startswith("_") and not name.startswith("__")}


@cache
def _own_names() -> set[str]:
    found = set()
    for node in (node for nodes in _modules().values() for node in nodes):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(getattr(node, "ctx", None), ast.Store):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
                found.add(node.attr)
    return found

"""Without the key nothing of Ray is needed, or loaded."""

import ast

import pytest

from bitladder.errors import UserError
from bitladder.params import ComputeParams
from bitladder.running.cluster import connected
from support import ROOT

LOADS = """
import sys
sys.modules["ray"] = None
import bitladder.targets.profile, bitladder.quantize.sensitivity, bitladder.stages.profile, bitladder.stages.sensitivity
"""


def test_what_may_go_to_a_cluster_is_loaded_without_ray(python):
    done = python(LOADS)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    says = r"^compute\.cluster: Ray is not installed .*; pip install 'bitladder\[ray\]'$"
    with pytest.raises(UserError, match=says), connected(ComputeParams(threads=2, cluster="local")):
        pass


def test_ray_is_imported_inside_functions_alone():
    for path in (ROOT / "src/bitladder").rglob("*.py"):
        loaded = [
            node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {getattr(node, "module", None) or node.names[0].name for node in loaded}
        assert not {name for name in names if name.split(".")[0] == "ray"}

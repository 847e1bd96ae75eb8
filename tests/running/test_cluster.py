"""Without the key nothing of Ray is needed, or loaded; with `local` it needs no set-up."""

import ast
from importlib.util import find_spec

import pytest

from bitladder.errors import UserError
from bitladder.params import ComputeParams
from bitladder.running.cluster_connect import connected
from support import ROOT

LOADS = """
import sys
sys.modules["ray"] = None
import bitladder.commands.sweep, bitladder.quantize.ptq, bitladder.quantize.sensitivity, bitladder.stages.profile
import bitladder.stages.ptq, bitladder.stages.sensitivity, bitladder.targets.profile, bitladder.targets.profile_cluster
"""


def test_what_may_go_to_a_cluster_is_loaded_without_ray(python):
    done = python(LOADS)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    says = r"^compute\.cluster: Ray is not installed .*; pip install 'bitladder\[ray\]'$"
    with pytest.raises(UserError, match=says), connected(ComputeParams(threads=2, cluster="local")):
        pass


LOCAL = """
import psutil
from bitladder.params import ComputeParams
from bitladder.running.cluster_connect import connected

with connected(ComputeParams(threads=1, cluster="local")) as joined:
    assert joined.schedule(abs, (-1,)).result(60) == 1
    for process in psutil.Process().children(recursive=True):
        for one in process.net_connections():
            if one.status == "LISTEN":
                print(one.laddr.ip)
"""


@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'bitladder[ray]'")
def test_local_needs_no_set_up_and_listens_on_loopback_alone(python):
    done = python(LOCAL, timeout=180)
    assert done.returncode == 0, done.stderr
    assert {address.removeprefix("::ffff:") for address in done.stdout.split()} == {"127.0.0.1"}


def test_ray_is_imported_inside_functions_alone():
    for path in (ROOT / "src/bitladder").rglob("*.py"):
        loaded = [
            node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {getattr(node, "module", None) or node.names[0].name for node in loaded}
        assert not {name for name in names if name.split(".")[0] == "ray"}

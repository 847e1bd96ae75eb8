import json
import os
import subprocess
import sys

import pytest
import torch

from bitladder.errors import UserError
from bitladder.running.files import load_tensors, read_json, replacing, save_tensors, write_csv, write_json


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from bitladder.running.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    """DVC would hash it: compare depends on all of metrics/eval, the bundle on all of build/export."""
    path = tmp_path / "tiny[1].json"
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert [left.name.rpartition(".")[0] for left in tmp_path.iterdir()] == [".tiny[1].json"]
    alive = tmp_path / f".tiny[1].json.{os.getppid()}"
    alive.write_text("another's, who still writes")
    write_json(path, {})
    assert sorted(tmp_path.iterdir()) == [alive, path]


def test_json_is_rounded_for_diffs_unless_it_must_be_exact(tmp_path):
    write_json(tmp_path / "metrics.json", {"value": 0.1234567891, "nested": [{"drop": 1.23456789e-9}]})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"value": 0.123457, "nested": [{"drop": 1.23457e-9}]}
    write_json(tmp_path / "scales.json", {"scale": 1.23456789e-9}, exact=True)
    assert json.loads((tmp_path / "scales.json").read_text()) == {"scale": 1.23456789e-9}


def test_a_number_that_is_none_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_csv_leaves_what_was_not_measured_empty(tmp_path):
    write_csv(tmp_path / "t.csv", ["rung", "latency_ms"], [{"rung": "tiny", "latency_ms": None, "other": 1}])
    assert (tmp_path / "t.csv").read_text() == "rung,latency_ms\ntiny,\n"


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path):
    a, b = torch.rand(3), torch.rand(2, 2)
    save_tensors(tmp_path / "1", {"a": a, "b": b})
    save_tensors(tmp_path / "2", {"b": b.t().t(), "a": a})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert torch.equal(load_tensors(tmp_path / "1")["b"], b)


@pytest.mark.parametrize("read", [read_json, load_tensors])
def test_missing_and_damaged_files_are_named(tmp_path, read):
    with pytest.raises(UserError, match=r"gone: no such file; run `dvc repro`"):
        read(tmp_path / "gone")
    (tmp_path / "half").write_bytes(b'{"a": ')
    with pytest.raises(UserError, match=r"half: damaged .*; delete it and run `dvc repro`"):
        read(tmp_path / "half")


def test_hashes_are_those_of_dvc():
    """dvc.lock of this commit was written by DVC: what it says of a small file in git must come out here."""
    from bitladder.running.files import dvc_hash, locked_stages
    from support import ROOT

    outs = {
        out["path"]: out["md5"] for stage in locked_stages(ROOT / "dvc.lock").values() for out in stage.get("outs", [])
    }
    assert dvc_hash(ROOT / "metrics/decision.json") == outs["metrics/decision.json"]


def test_nothing_is_locked_where_there_is_no_lock(tmp_path):
    from bitladder.running.files import locked_stages

    assert locked_stages(tmp_path / "dvc.lock") == {}

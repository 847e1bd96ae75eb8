"""Ops and memory of a profiled rung."""

import pytest

from bitladder.errors import UserError
from bitladder.paths import RungFiles
from bitladder.report.ops import format_ops
from records import on, write_on_target


def test_a_rung_that_was_not_profiled_here_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"metrics/target/tiny\.json: no such file; run `dvc repro`"):
        format_ops("tiny")
    for rung in ("tiny", "fp16"):
        write_on_target(tmp_path, rung, on(rung), {"QCS6490": on(rung, soc="QCS6490")})
    with pytest.raises(UserError, match=r"SM8650/ops\.csv: no such file.* is profiled: `dvc repro profile@tiny`$"):
        format_ops("tiny")
    for rung in ("tiny", "fp16"):
        model = RungFiles(rung).model
        model.parent.mkdir(parents=True)
        model.touch()
    with pytest.raises(UserError, match=r"SM8650/ops\.csv: no such file.* --single-item profile@tiny`"):
        format_ops("tiny")
    with pytest.raises(UserError, match=r"fp16/QCS6490/ops\.csv: no such file.*--single-item profile-fp16`"):
        format_ops("fp16", "QCS6490")


def test_ops_and_memory_are_those_of_the_soc_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, cycles in (("SM8650", 70), ("QCS6490", 90)):
        path = tmp_path / "build/notes/tiny" / folder / "ops.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"op,unit,cycles,share,source\nconv (Conv),HVX,{cycles},0.5,emulated\n")
    record = on("tiny", memory_bytes=110592)
    write_on_target(tmp_path, "tiny", record, {"QCS6490": on("tiny", memory_bytes=110592, soc="QCS6490")})
    first, second = format_ops("tiny"), format_ops("tiny", "QCS6490")
    assert "|       70 | 50.0%" in first and "SM8650" in first and "110,592" in first
    assert "|       90 | 50.0%" in second and "QCS6490" in second
    write_on_target(tmp_path, "tiny", record, {})
    with pytest.raises(UserError, match=r"target/tiny\.json: has nothing of QCS6490; put it into target\.socs"):
        format_ops("tiny", "QCS6490")

"""The metrics files: what is written is read, what 0.1.0 wrote too, and what does not fit is one line."""

import json
import shutil
from pathlib import Path

import pytest

from bitladder.decision.decide import decide
from bitladder.decision.goals import judge, summary
from bitladder.errors import UserError
from bitladder.records import (
    Decision,
    Evaluation,
    ExportCheck,
    FloatShare,
    FloatTensor,
    Gate,
    SensitivitySummary,
    TargetRecord,
    Try,
    read_record,
    write_record,
)
from records import RUNGS, off, on, refused, skipped_off, with_goals

OLD = Path(__file__).parent / "written_by_0_1_0"

PARAMS = with_goals(socs=["QCS6490"], max_latency_ms=5.0, per_soc={"QCS6490": {"max_drop": None, "min_value": 0.5}})
SOCS = {rung: {"QCS6490": refused(rung, "it does not take it", soc="QCS6490")} for rung in RUNGS}
TRIES = (
    Try(technique="min-max", value=0.5, drop=0.1, sqnr_db=20.0, kept=True),
    Try(technique="seq-mse", kept=False, not_applicable="it is for weights of at most 4 bits"),
)

RECORDS = {
    "fp32": off("fp16", technique="as it came"),
    "ptq": off("tiny", sqnr_db=18.25, agreement=1.0, tries=TRIES),
    "eval": off("tiny", qat="not run: qat.when is never", tries=()),
    "skipped": skipped_off("tiny"),
    "target": TargetRecord(**dict(on("tiny", latency_ms=0.25, latency_source="estimated")), socs=SOCS["tiny"]),
    "export": ExportCheck(
        samples=20,
        sqnr_db=200.0,
        agreement=None,
        float_share=FloatShare(ops=1, weights=0.25),
        float_tensors=(FloatTensor(name="position", op="Add", layer="stem", elements=8, kind="weight"),),
    ),
    "sensitivity": SensitivitySummary(sensitive_to="weight", summary="It is.", worst=("conv", "fc")),
    "summary": summary(judge(PARAMS, "tiny", off("tiny"), on("tiny"), off("fp16"), SOCS["tiny"])),
    "gate": Gate(descend=False),
    "decision": decide(
        PARAMS,
        {name: off(name if name in RUNGS else "fp16") for name in ("fp32", *RUNGS)},
        {rung: on(rung) for rung in RUNGS},
        SOCS,
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_written_is_read(name, tmp_path):
    record, path = RECORDS[name], tmp_path / "it.json"
    write_record(path, record)
    assert read_record(type(record), path) == record
    assert next(iter(json.loads(path.read_text()))) == "schema"


def test_a_file_has_six_decimals_and_no_key_that_says_nothing(tmp_path):
    path = tmp_path / "eval.json"
    write_record(path, off("tiny", drop=0.1234567891))
    found = json.loads(path.read_text())
    assert found["drop"] == 0.123457 and found["sqnr_db"] is None
    assert not {"skipped", "qat", "tries"} & set(found)


def test_a_decision_of_0_1_0_is_read_by_its_names_of_today():
    old, found = json.loads((OLD / "decision.json").read_text()), read_record(Decision, OLD / "decision.json")
    assert (found.chosen, found.reason) == ("tiny", old["reason"])
    assert len(found.trail) == 4
    for entry, was in zip(found.trail, old["trail"], strict=True):
        assert entry.outcome == was["then"]
        assert entry.goals.model_dump() == was["asked"]
        assert entry.measured.model_dump(exclude_none=True) == {k: v for k, v in was["found"].items() if v is not None}


def test_other_files_of_0_1_0_are_read():
    tiny = read_record(Evaluation, OLD / "eval-tiny.json")
    assert tiny.tries == (Try(technique="min-max", value=0.978, drop=0.002, sqnr_db=18.413997, kept=True),)
    target = read_record(TargetRecord, OLD / "target-tiny.json")
    assert (target.memory_bytes, target.socs) == (102400, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 4}, "has schema 4, and this bitladder reads schemas up to 3"),
        ({"schema": "two"}, "schema: should be a whole number from 1, not 'two'"),
        ({"value": "0.9"}, "value: input should be a valid number, not '0.9'"),
        ({"value": float("nan")}, "value: input should be a finite number, not nan"),
        ({"vaule": 0.9}, "vaule: unknown key"),
        ({"tries": [{"technique": "cle", "kept": 1}]}, "tries.0.kept: input should be a valid boolean, not 1"),
        ({"schema": 1, "idle": 3}, "has schema 1, which does not translate to schema 3 (not_applicable: unknown key)"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_line(change, message, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(off("tiny").content() | change))
    with pytest.raises(UserError) as error:
        read_record(Evaluation, path)
    assert str(error.value) == f"{path}: {message}; run `dvc repro`"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b'{"schema": 2, ', "damaged"), (b"\xff", "damaged"), (b"[]", "holds no keys")],
)
def test_a_file_that_is_missing_or_damaged_says_what_to_run(content, message, tmp_path):
    path = tmp_path / "tiny.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"tiny\.json: {message}.*; run `dvc repro`$") as error:
        read_record(Evaluation, path)
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "tiny.json"
    shutil.copy(OLD / "target-tiny.json", path)
    path.write_text(path.read_text().replace('"memory": ', '"schema": 2, "memories": '))
    with pytest.raises(UserError, match=r"tiny\.json: memory: missing"):
        read_record(TargetRecord, path)


def test_the_types_start_without_torch(python):
    done = python("import sys, bitladder.records; print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr

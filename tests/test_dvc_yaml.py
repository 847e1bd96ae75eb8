"""DVC follows no imports, so what each stage declares is compared with what its script comes to import."""

import pytest
from ruamel.yaml import YAML

from closure import import_closure
from support import ROOT

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]

DATA_FILES = {"src/bitladder/socs.yaml"}  # read, not imported


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_all_the_code_that_it_imports(name):
    stage = STAGES[name].get("do", STAGES[name])
    script = stage["cmd"].split()[1]
    code = {path for path in stage["deps"] if path.startswith(("src/", "stages/"))}
    assert code - DATA_FILES == import_closure(ROOT / script, ROOT) - DATA_FILES


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_files_that_its_code_reads(name):
    stage = STAGES[name].get("do", STAGES[name])
    text = "".join((ROOT / path).read_text("utf-8") for path in stage["deps"] if path.startswith("stages/"))
    assert ("load_task(" in text) == ("build/task.json" in stage["deps"])
    assert ("params.soc" in text or "verify(" in text) <= ("src/bitladder/socs.yaml" in stage["deps"])


def test_no_script_is_without_a_stage():
    scripts = {stage.get("do", stage)["cmd"].split()[1] for stage in STAGES.values()}
    assert scripts == {f"stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}

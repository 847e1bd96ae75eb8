"""DVC follows no imports, so what each stage declares is compared with what its script comes to import."""

import pytest
from ruamel.yaml import YAML

from closure import import_closure
from support import ROOT

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_all_the_code_that_it_imports(name):
    stage = STAGES[name].get("do", STAGES[name])
    script = stage["cmd"].split()[1]
    code = {path for path in stage["deps"] if path.endswith(".py")}
    assert code == import_closure(ROOT / script, ROOT)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_files_that_its_code_reads(name):
    stage = STAGES[name].get("do", STAGES[name])
    deps = set(stage["deps"])
    text = (ROOT / stage["cmd"].split()[1]).read_text("utf-8")
    assert ("load_task(" in text) <= ("build/task.json" in deps)
    assert ("params.soc" in text or "verify(" in text) <= ("src/bitladder/socs.yaml" in deps)
    assert ("src/bitladder/latency/table.py" in deps) == (
        {f"src/bitladder/latency/data/published_{name}.csv" for name in ("latency", "work")} <= deps
    )
    assert ("src/bitladder/report/page.py" in deps) <= ("src/bitladder/report/page.html" in deps)


def test_no_script_is_without_a_stage():
    scripts = {stage.get("do", stage)["cmd"].split()[1] for stage in STAGES.values()}
    assert scripts == {f"stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}

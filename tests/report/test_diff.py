"""What a reviewer reads of a change: from real git revisions, with and without the DVC cache."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.report.diff import diff, format_diff, lost
from bitladder.report.revisions import read_revision
from records import write_project
from report_repository import edit_json, git

LAYERS = (
    "layer,kind,sqnr_db,weights_bits,weight_min,weight_max,outputs_bits,output_min,output_max\n"
    "conv,Conv2d,{sqnr},{bits},-2.1,2.0,8,0.0,3.8\nfc,Linear,28.5,{bits},-0.9,1.2,8,-5.0,5.4\n"
)


def write_layers(bits: int, sqnr: float) -> None:
    Path("metrics/export").mkdir(exist_ok=True)
    Path("metrics/export/tiny.csv").write_text(LAYERS.format(bits=bits, sqnr=sqnr))


def write_lock(scale: float, size: int) -> None:
    """Write a dvc.lock of one graph and one file of encodings, and what build/ holds of it."""
    path = Path("build/export/tiny/encodings.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"conv.param_quantizers.weight": {"bw": 4, "scale": [scale, 0.5]}}))
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    cached = Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, cached)
    outs = f"""
    - {{path: {path}, md5: {digest}, size: 80}}
    - {{path: build/export/tiny/model.onnx, md5: {digest}, size: {size}}}
"""
    Path("dvc.lock").write_text(f"schema: '2.0'\nstages:\n  export@tiny:\n    outs:{outs}")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository, with a DVC cache, whose work tree is that of `main`."""
    write_project(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    Path(".gitignore").write_text("build/\n.dvc/\n")
    write_layers(4, 14.2)
    write_lock(0.25, 1000)
    git("add", "-A")
    git("commit", "-qm", "main")
    return tmp_path


def widen_tiny() -> None:
    """Edit one number of params.yaml, and what it changes."""
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("{weights: 4, activations: 8", "{weights: 8, activations: 8"))
    edit_json("metrics/eval/tiny.json", lambda record: record.update(value=0.99))
    edit_json("metrics/target/tiny.json", lambda record: record.update(memory_bytes=1500))
    write_layers(8, 33.1)
    write_lock(0.2, 1500)


def text(before: str = "main", after: str | None = None, form: str = "text") -> str:
    return format_diff(diff(read_revision(before), read_revision(after)), form)


def test_nothing_changed_says_so(repository: Path) -> None:
    assert "Nothing else changed." in text()


def test_a_one_number_edit_fits_on_a_screen_and_says_what_matters(repository: Path) -> None:
    widen_tiny()
    found = text()
    for line in (
        "ladder.tiny.weights  4         8",
        "tiny    accuracy off target    0.8960    0.9900   +0.0940",
        "tiny    context binary, bytes  1,000     1,500    +500 (+50.0%)",
        "4 -> 8 bits: all 2 layers",
        "conv 14.2 -> 33.1 dB, the most",
        "1 of 1 quantizers; conv.param_quantizers.weight by 20.0%",
        "build/export/tiny/model.onnx  1,000     1,500    +500 (+50.0%)",
    ):
        assert line in found
    assert "Not compared" not in found
    assert len(found.splitlines()) <= 40


def test_a_revision_of_0_1_0_is_compared_with_one_of_today(repository: Path) -> None:
    """Whose decision had other keys, and whose further SoCs a file of their own."""
    write_project(repository, ["QCS6490"])
    for path in Path("metrics/eval").glob("*.json"):
        edit_json(str(path), lambda record: record.pop("schema"))
    Path("metrics/socs").mkdir()
    for path in Path("metrics/target").glob("*.json"):
        old = json.loads(path.read_text())
        del old["schema"]
        Path(f"metrics/socs/{path.name}").write_text(json.dumps(old.pop("socs")))
        path.write_text(json.dumps(old))
    text_of = Path("metrics/decision.json").read_text()
    for now, then in (("goals", "asked"), ("measured", "found"), ("outcome", "then")):
        text_of = text_of.replace(f'"{now}":', f'"{then}":')
    Path("metrics/decision.json").write_text(text_of.replace('"schema": 3,', ""))
    git("add", "-A")
    git("commit", "-qm", "0.1.0")
    shutil.rmtree("metrics/socs")
    write_project(repository, ["QCS6490"])
    assert "Nothing else changed." in text("HEAD")
    edit_json("metrics/target/tiny.json", lambda record: record["socs"]["QCS6490"].update(memory_bytes=1500))
    edit_json(
        "metrics/decision.json", lambda record: record["trail"][1].update(misses=["late"], outcome="not chosen: late")
    )
    found = text("HEAD")
    assert "tiny    QCS6490: context binary, bytes  1,000     1,500    +500 (+50.0%)" in found
    assert "balanced: meets every goal -> not chosen: late." in found
    assert "Not compared" not in found


def test_two_revisions_are_compared_as_they_were_committed(repository: Path) -> None:
    widen_tiny()
    git("commit", "-qam", "wider")
    found = text("main~1", "main")
    assert "ladder.tiny.weights" in found
    assert "1 of 1 quantizers" in found


def test_an_experiment_of_dvc_is_known_by_its_name(repository: Path) -> None:
    widen_tiny()
    git("commit", "-qam", "wider")
    git("update-ref", "refs/exps/ab/cdef/gawky-ryas", "HEAD")
    git("reset", "-q", "--hard", "main~1")
    assert "ladder.tiny.weights" in text("main", "gawky-ryas")


def test_without_the_cache_the_text_says_what_it_could_not_see(repository: Path) -> None:
    widen_tiny()
    git("commit", "-qam", "wider")
    shutil.rmtree(".dvc/cache")
    found = text("main~1", "main")
    assert "quantizers" not in found
    assert "build/export/tiny/encodings.json at main~1: not in the DVC cache here" in found


def test_a_goal_that_no_longer_holds_is_lost_and_the_command_fails(repository: Path) -> None:
    def miss(record: dict[str, Any]) -> None:
        record["chosen"], record["reason"] = "compact", "compact is it"
        next(entry for entry in record["trail"] if entry["rung"] == "tiny").update(misses=["too inaccurate"])

    edit_json("metrics/decision.json", miss)
    assert lost(read_revision("main"), read_revision(None)) == (
        "tiny, chosen at main, no longer meets the goals: too inaccurate"
    )
    done = CliRunner().invoke(app, ["diff", "main", "--check"])
    assert done.exit_code == 1
    assert "Decision: tiny -> compact" in done.output
    assert CliRunner().invoke(app, ["diff", "main"]).exit_code == 0


def test_a_ladder_on_which_nothing_is_good_any_more_is_a_loss(repository: Path) -> None:
    edit_json("metrics/decision.json", lambda record: record.update(chosen=None))
    assert lost(read_revision("main"), read_revision(None)) == ("no rung meets the goals any more; at main tiny did")
    assert lost(read_revision(None), read_revision("main")) is None


def test_markdown_and_html_carry_the_same_tables(repository: Path) -> None:
    widen_tiny()
    markdown, page = text(form="markdown"), text(form="html")
    assert "| ladder.tiny.weights | 4        | 8       |" in markdown
    assert "<td>ladder.tiny.weights</td>" in page
    assert "http" not in page


def test_a_rung_that_came_or_went_is_in_the_params_and_the_figures(repository: Path) -> None:
    params = Path("params.yaml")
    kept = [line for line in params.read_text().splitlines() if not line.startswith("  tiny:")]
    params.write_text("\n".join(kept))
    found = text()
    assert "ladder.tiny.weights      4         absent" in found
    assert "tiny    context binary, bytes" in found


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "git knows no such revision here"), ("empty", "has no params.yaml in this folder")],
)
def test_a_wrong_revision_gives_one_line(repository: Path, name: str, message: str) -> None:
    git("checkout", "-q", "--orphan", "empty")
    git("rm", "-rqf", "--cached", ".")
    git("commit", "-q", "--allow-empty", "-m", "nothing")
    done = CliRunner().invoke(app, ["diff", name])
    assert done.exit_code == 1
    assert message in done.output


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("params.yaml", "<<<<<<< HEAD\nseed: 0\n", "params.yaml at work tree: damaged"),
        ("params.yaml", "- seed\n", "params.yaml at work tree: holds no keys"),
        ("metrics/decision.json", '{"chosen": ', "metrics/decision.json at work tree: damaged"),
        ("dvc.lock", "stages: [", "dvc.lock at work tree: damaged"),
    ],
)
def test_a_damaged_file_gives_one_line(repository: Path, path: str, content: str, message: str) -> None:
    """As a merge leaves them that is not done."""
    Path(path).write_text(content)
    done = CliRunner().invoke(app, ["diff", "main"])
    assert done.exit_code == 1
    assert message in done.output and len(done.output.splitlines()) == 1


def test_a_params_file_without_a_ladder_is_compared(repository: Path) -> None:
    Path("params.yaml").write_text("seed: 1\nladder:\ntarget:\n")
    assert "ladder.tiny.weights" in text()

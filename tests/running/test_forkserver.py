"""Stages that are forked from the process that has loaded the libraries behave as those that run on their own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from bitladder.running.forkserver import KEPT
from support import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux alone")

STAGE = """{ahead}
import os, sys, time
from bitladder.errors import UserError
from bitladder.running.stage import run


def main(params, *words):
    print("ahead" if "torch" in sys.modules else "alone", flush=True)
    {body}


if __name__ == "__main__":
    run(main, torch=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with params.yaml; all its stages come from one process, which ends by itself."""
    made = tmp_path_factory.mktemp("forks")
    shutil.copy(ROOT / "params.yaml", made)
    (made / "stages").mkdir()
    return made


def start(
    folder: Path, body: str, words: tuple[str, ...] = (), ahead: str = "", **variables: str
) -> subprocess.Popen[str]:
    script = folder / "stages/one.py"
    script.write_text(STAGE.format(ahead=ahead, body=body))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables}
    environment.pop("PYTEST_CURRENT_TEST", None)  # or each test would have a process of its own load everything
    return subprocess.Popen(
        [sys.executable, *words, "stages/one.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )


def said(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    out, err = process.communicate(timeout=120)
    return out, err, process.returncode


def is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


def test_a_stage_finds_the_libraries_loaded_and_says_what_it_has_to_say(folder):
    out, err, code = said(start(folder, "print('out'); print('err', file=sys.stderr)"))
    assert (out, code) == ("ahead\nout\n", 0)
    assert err.endswith("err\n")


def test_an_edit_counts_at_once(folder):
    assert said(start(folder, "print(1)"))[0] == "ahead\n1\n"
    assert said(start(folder, "print(2)"))[0] == "ahead\n2\n"


def test_an_edit_of_the_code_that_stays_loaded_counts_too(folder, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(ROOT / "src/bitladder", copied / "bitladder")
    variables = {"PYTHONPATH": str(copied)}
    body = "from bitladder import params, socs; print(getattr(params, 'NEW', 0), getattr(socs, 'NEW', 0))"
    assert said(start(folder, body, **variables))[0] == "ahead\n0 0\n"
    for number, name in enumerate(("params", "socs")):
        with (copied / f"bitladder/{name}.py").open("a", encoding="utf-8") as file:
            file.write("\nNEW = 1\n")
        assert said(start(folder, body, **variables))[0] == f"ahead\n1 {number}\n"


def test_of_this_project_a_fork_finds_only_what_stays_loaded(folder):
    ahead = "import sys\nAHEAD = sorted(name for name in sys.modules if name.startswith('bitladder'))\n"
    out, err, _ = said(start(folder, "print(*AHEAD)", ahead=ahead))
    assert out == f"ahead\n{' '.join(sorted(KEPT))}\n", err


def test_a_process_whose_code_was_edited_as_it_started_forks_nothing(folder, tmp_path):
    """Undo the edit, and its name is right again: it must not be trusted for that."""
    copied = tmp_path / "copied"
    shutil.copytree(ROOT / "src/bitladder", copied / "bitladder")
    earlier, socs = copied / "bitladder/running/determinism.py", copied / "bitladder/socs.py"
    earlier.write_text(f"{earlier.read_text()}\nimport time\ntime.sleep(3)\n")  # loaded before socs.py
    before = socs.read_text()
    first = start(folder, "pass", PYTHONPATH=str(copied))
    time.sleep(1.5)
    socs.write_text(before + "\nNEW = 1\n")
    assert said(first)[2] == 0
    socs.write_text(before)
    body = "from bitladder import socs; print(getattr(socs, 'NEW', 0))"
    assert said(start(folder, body, PYTHONPATH=str(copied)))[0].endswith("0\n")


def test_what_stays_loaded_needs_nothing_that_does_not():
    loaded = "import sys, bitladder.running.determinism, bitladder.params"
    code = f"{loaded}; print(*(name for name in sys.modules if 'bitl' in name))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert set(found.stdout.split()) == set(KEPT)


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("raise UserError('task: no loss')", 1, "one: task: no loss\n"),
        ("sys.exit(7)", 7, ""),
        ("raise ValueError('ours')", 1, "ValueError: ours\n"),
    ],
)
def test_a_stage_fails_as_it_does_on_its_own(folder, body, code, line):
    out, err, found = said(start(folder, body))
    assert (out, found) == ("ahead\n", code)
    assert err.endswith(line)
    assert ("Traceback" in err) == ("ours" in line)


def test_a_stage_that_is_killed_is_told_as_killed(folder):
    assert said(start(folder, "os.kill(os.getpid(), 9)"))[2] == -signal.SIGKILL


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_the_one_who_asked_for_it(folder, blow):
    process = start(folder, "print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout.readline() == "ahead\n"
    pid = int(process.stdout.readline())
    process.send_signal(blow)
    assert process.wait(10) == -blow
    assert is_gone(pid)


def test_a_stage_gives_its_workers_up_when_it_is_given_up(folder):
    body = (
        "from pathlib import Path; from bitladder.targets.workers import worker_pool\n"
        "    with worker_pool(1, Path()) as pool:\n"
        "        pool.schedule(time.sleep, args=(60,)); print(flush=True); time.sleep(60)"
    )
    process = start(folder, body)
    process.stdout.readline(), process.stdout.readline()
    for _ in range(2):  # the first is waited for, as pebble does; the second is not
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, err, code = said(process)
    assert code == 1
    assert err.endswith("one: interrupted; `dvc repro` goes on from here\n")


def test_what_a_script_registered_for_its_end_is_done(folder):
    assert said(start(folder, "import atexit; atexit.register(print, 'bye')"))[0] == "ahead\nbye\n"


def test_a_file_in_the_projects_folder_hides_no_library(folder):
    (folder / "profile.py").write_text("raise RuntimeError('not the standard library')")
    assert said(start(folder, "import cProfile", ALSO="this"))[0] == "ahead\n"


def test_closed_streams_do_no_harm(folder):
    body = "Path = __import__('pathlib').Path; Path('done').write_text('it')"
    (folder / "stages/one.py").write_text(STAGE.format(ahead="", body=body))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    shell = f"{sys.executable} stages/one.py <&- >&-"
    assert subprocess.run(["sh", "-c", shell], cwd=folder, env=environment, timeout=120, check=False).returncode == 0
    assert (folder / "done").read_text() == "it"


def test_ctrl_c_reaches_the_stage(folder):
    process = start(folder, "print(os.getpid(), flush=True); time.sleep(60)")
    process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err, code = said(process)
    assert code == 1
    assert err.endswith("one: interrupted; `dvc repro` goes on from here\n")


def test_another_environment_is_not_mixed_up_with_this_one(folder):
    body = "print(os.environ.get('WHOSE'), os.environ.get('DVC_STAGE'))"
    assert said(start(folder, body, DVC_STAGE="a"))[0] == "ahead\nNone a\n"
    assert said(start(folder, body, DVC_STAGE="b"))[0] == "ahead\nNone b\n"
    assert said(start(folder, body, WHOSE="mine"))[0] == "ahead\nmine None\n"


@pytest.mark.parametrize(("words", "variables"), [((), {"BITLADDER_FORK": "0"}), (("-X", "utf8"), {})])
def test_where_anything_is_unusual_a_stage_runs_on_its_own(folder, words, variables):
    out, _, code = said(start(folder, "pass", words, **variables))
    assert (out, code) == ("alone\n", 0)


def test_where_loading_fails_a_stage_runs_on_its_own_and_says_why(folder, tmp_path):
    (tmp_path / "params.yaml").write_text("seed: none\n")
    (tmp_path / "stages").mkdir()
    out, err, code = said(start(tmp_path, "pass"))
    assert (out, code) == ("", 1)
    assert "one: params.yaml: " in err and "Traceback" not in err

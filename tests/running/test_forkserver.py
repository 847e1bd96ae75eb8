"""Stages that are forked from the process that has loaded the libraries behave as those that run on their own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from bitladder.running.forksocket import HELD, KEPT
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
    run("__main__", torch=True)
"""


PARENT = "print(os.getppid())"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with params.yaml; all its stages come from one process, which ends by itself."""
    made = tmp_path_factory.mktemp("forks")
    shutil.copy(ROOT / "params.yaml", made)
    (made / "stages").mkdir()
    return made


@pytest.fixture(scope="module", autouse=True)
def _own_runtime():
    """Leave the user's own folder alone. This one's path is short, for a socket's has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", made)
        yield


@pytest.fixture
def runtime():
    """Give a folder for $XDG_RUNTIME_DIR with no sockets in it yet, and so no server."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def start(
    folder: Path, body: str, words: tuple[str, ...] = (), ahead: str = "", **variables: str
) -> subprocess.Popen[str]:
    written = folder / "stages/one.new"
    written.write_text(STAGE.format(ahead=ahead, body=body))
    written.replace(folder / "stages/one.py")  # whole at any moment: another stage may be about to read it
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


def said_of_server(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Give "ahead" or "alone", and the stage's parent process: the server that it was forked from."""
    out, err, code = said(process)
    assert code == 0, err
    how, parent = out.split()
    return how, int(parent)


def listening(process: int) -> list[str]:
    """Name the addresses that a process listens at; those of abstract sockets start with @."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    addresses = {f"socket:[{row[6]}]": row[7] for row in rows if len(row) == 8}
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since: the process goes on loading
            found.append(addresses.get(str(descriptor.readlink())))
    return [address for address in found if address]


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
        ("raise ValueError('ours')", 1, "; build/notes/one.txt has the full text\n"),
    ],
)
def test_a_stage_fails_as_it_does_on_its_own(folder, body, code, line):
    out, err, found = said(start(folder, body))
    assert (out, found) == ("ahead\n", code)
    assert err.endswith(line)
    assert "Traceback" not in err
    assert ("ours" in err) == ("ours" in body)


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


def test_no_other_user_can_reach_the_socket(folder, runtime):
    how, server = said_of_server(start(folder, PARENT, XDG_RUNTIME_DIR=str(runtime)))
    assert how == "ahead"
    assert (runtime / "bitladder").stat().st_mode & 0o777 == 0o700
    (path,) = (runtime / "bitladder").iterdir()
    assert listening(server) == [str(path)]


@pytest.mark.parametrize("other", ["", "none", "open"])
def test_without_a_runtime_folder_the_socket_is_in_the_temporary_folder(folder, runtime, other):
    (runtime / "open").mkdir()
    (runtime / "open").chmod(0o755)
    variables = {"XDG_RUNTIME_DIR": other and str(runtime / other), "TMPDIR": str(runtime)}
    assert said_of_server(start(folder, PARENT, **variables))[0] == "ahead"
    made = runtime / f"bitladder-{os.getuid()}"
    assert made.stat().st_mode & 0o777 == 0o700
    assert len(list(made.iterdir())) == 1


def link(sockets: Path) -> None:
    sockets.rename(elsewhere := sockets.with_name("elsewhere"))
    sockets.symlink_to(elsewhere)


def file(sockets: Path) -> None:
    sockets.rmdir()
    sockets.touch()


def another_owner(sockets: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder away")
    os.chown(sockets, 12345, -1)


def group(sockets: Path) -> None:
    sockets.chmod(0o750)


def others(sockets: Path) -> None:
    sockets.chmod(0o701)


@pytest.fixture(params=[link, file, another_owner, group, others])
def unsafe(runtime, request):
    """Give a folder for sockets that must not be used."""
    (sockets := runtime / "bitladder").mkdir(mode=0o700)
    request.param(sockets)
    return sockets


def is_unused(sockets: Path) -> bool:
    return sockets.is_file() or not list(sockets.iterdir())


def test_where_the_sockets_folder_is_not_safe_a_stage_runs_on_its_own(folder, unsafe):
    assert said_of_server(start(folder, PARENT, XDG_RUNTIME_DIR=str(unsafe.parent))) == ("alone", os.getpid())
    assert is_unused(unsafe)


def test_a_server_whose_folder_was_opened_to_others_is_not_used_any_more(folder, runtime):
    assert said_of_server(start(folder, PARENT, XDG_RUNTIME_DIR=str(runtime)))[0] == "ahead"
    (runtime / "bitladder").chmod(0o711)
    assert said_of_server(start(folder, PARENT, XDG_RUNTIME_DIR=str(runtime))) == ("alone", os.getpid())


def test_in_a_folder_that_is_not_safe_the_server_does_not_listen(folder, unsafe):
    words = [sys.executable, "-P", "-m", "bitladder.running.forkserver", str(unsafe / "name")]
    server = subprocess.Popen(words, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    while server.poll() is None:
        assert is_unused(unsafe)
    assert server.returncode == 0


def test_where_the_sockets_path_would_be_too_long_a_stage_runs_on_its_own(folder, runtime):
    (long := runtime / ("x" * 100)).mkdir(mode=0o700)
    assert said_of_server(start(folder, PARENT, XDG_RUNTIME_DIR=str(long))) == ("alone", os.getpid())


def test_the_socket_of_a_server_that_was_killed_is_replaced(folder, runtime):
    _, first = said_of_server(start(folder, PARENT, XDG_RUNTIME_DIR=str(runtime)))
    (path,) = (runtime / "bitladder").iterdir()
    os.kill(first, signal.SIGKILL)
    assert is_gone(first)
    assert path.is_socket()
    how, second = said_of_server(start(folder, PARENT, XDG_RUNTIME_DIR=str(runtime)))
    assert how == "ahead" and second != first
    assert list((runtime / "bitladder").iterdir()) == [path]


@pytest.mark.parametrize("is_stale", [False, True])
def test_stages_that_start_at_once_have_one_server(folder, runtime, is_stale):
    """Hold the lock until the server of each waits for it: so they go on at the same moment."""
    import fcntl  # which Windows has not

    variables = {"XDG_RUNTIME_DIR": str(runtime)}
    if is_stale:
        os.kill(said_of_server(start(folder, PARENT, **variables))[1], signal.SIGKILL)
    (sockets := runtime / "bitladder").mkdir(mode=0o700, exist_ok=True)
    before = [path.stat().st_ino for path in sockets.iterdir()]
    lock = os.open(sockets, os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    stages = [start(folder, PARENT, **variables) for _ in range(4)]
    time.sleep(2)
    assert [path.stat().st_ino for path in sockets.iterdir()] == before
    os.close(lock)
    found = [said_of_server(stage) for stage in stages]
    assert {how for how, _ in found} == {"ahead"}
    assert len({server for _, server in found}) == 1
    assert len(list(sockets.iterdir())) == 1


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_server_that_ends_takes_its_own_socket_along_and_no_other(folder, runtime, tmp_path, is_replaced):
    shutil.copytree(ROOT / "src/bitladder", tmp_path / "bitladder")
    code = tmp_path / "bitladder/running/forkserver.py"
    code.write_text(code.read_text().replace("IDLE_S = 10.0", "IDLE_S = 1.0"))
    variables = {"XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(tmp_path)}
    _, server = said_of_server(start(folder, PARENT, **variables))
    (path,) = (runtime / "bitladder").iterdir()
    if is_replaced:
        path.unlink()
        path.touch()
    assert is_gone(server)
    assert path.exists() == is_replaced


def test_what_the_server_has_loaded_of_this_project_is_part_of_its_address():
    """Or it would go on with code that has been edited since."""
    loaded = (
        "bitladder.running.forkserver, bitladder.running.determinism, bitladder.params, bitladder.quantize.sim.aimet"
    )
    code = f"import sys, {loaded}; print(*(name for name in sys.modules if name.partition('.')[0] == 'bitladder'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    held = {f"bitladder/{name}".removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in HELD}
    assert set(found.stdout.split()) == set(KEPT) | held - {"bitladder.socs.yaml"}

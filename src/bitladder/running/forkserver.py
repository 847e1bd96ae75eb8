"""One process that has loaded torch and AIMET, and forks the stages of a `dvc repro`: loading takes longer than most.

The first stage that needs them starts it. It ends when nothing was asked of it for IDLE_S. It holds no code of the
task's, and of this project's only KEPT and what HELD has done, whose contents are part of its address: each stage
imports the rest anew, so that an edit counts at once. A stage runs in a process of its own where anything is unusual:
another system than Linux, a GPU (its driver does not survive a fork), an interpreter with options, another environment,
user, limit or installation than the one that the process was started in, or BITLADDER_FORK=0.

A fork keeps the bits: torch has started no threads yet, and the settings of determinism.py were made before it loaded.
"""

import atexit
import ctypes
import gc
import hashlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bitladder.paths import PACKAGE

__all__ = ["run_script", "start"]

IDLE_S = 10.0

START_S = 120.0  # how long loading may take; a few seconds are usual

END_S = 1.0  # how long a stage that nobody waits for any more may take to end by itself

LOADED = (
    "bitladder.quantize.sim.aimet",  # first: it leaves out most of what AIMET brings along
    "aimet_torch.adaround.adaround_weight",
    "aimet_torch.batch_norm_fold",
    "aimet_torch.bn_reestimation",
    "aimet_torch.cross_layer_equalization",
    "aimet_torch.model_preparer",
    "aimet_torch.model_validator.model_validator",
    "aimet_torch.onnx",
    "aimet_torch.quantsim",
    "aimet_torch.seq_mse",
    "onnx",
    "safetensors.torch",
)
"""What is imported ahead, after torch and what params.py needs; what is missing here is only slower."""

GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

KEPT = (
    "bitladder",
    *(f"bitladder.{name}" for name in ("errors", "params", "precision", "running", "running.determinism", "socs")),
)
"""Modules of this project's that stay loaded: building the classes of params.py takes longer than all the others."""

HELD = ("quantize/__init__.py", "quantize/sim/__init__.py", "quantize/sim/aimet.py", "running/patches.py", "socs.yaml")
"""What else it has read of this project, and does not forget."""

OF_ONE_STAGE = ("DVC_STAGE", "_")  # environment variables that differ from stage to stage

SET_PDEATHSIG = 1  # of prctl


def start() -> None:
    """Start the process that loads the libraries, and do not wait for it."""
    if connection := _connect():
        connection.close()


def run_script(script: str, arguments: list[str]) -> int | None:
    """Run a stage's script in a fork of the process that has loaded the libraries, and wait for it.

    Returns: its exit code, or None where it has not been run: the caller must then do so itself.
    """
    connection = _connect()
    if connection is None:
        return None
    with connection:
        asked = json.dumps({"argv": [script, *arguments], "stage": os.environ.get("DVC_STAGE")})
        try:
            socket.send_fds(connection, [asked.encode()], [0, 1, 2])
            pid = int(connection.recv(64) or 0)
        except OSError:
            return None
        return _wait(connection, pid) if pid else None


def _is_usual() -> bool:
    return (
        sys.platform == "linux"
        and "torch" not in sys.modules
        and os.environ.get("BITLADDER_FORK") != "0"
        and sys.orig_argv[1:] == sys.argv
        and None not in (sys.stdin, sys.stdout, sys.stderr)
        and not any(Path(gpu).exists() for gpu in GPUS)
    )


def _address() -> str:
    """Name the one process that may stand for this one: an abstract socket's address, gone when the process is."""
    import resource  # which Windows has not

    here, site = Path.cwd().stat(), Path(sysconfig.get_path("purelib"))
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    os.umask(umask := os.umask(0))
    same = {
        "folder": [str(Path.cwd()), here.st_dev, here.st_ino],
        "python": [sys.executable, sys.version, site.stat().st_mtime_ns],
        "environment": sorted(item for item in os.environ.items() if item[0] not in OF_ONE_STAGE),
        "user": [os.getuid(), os.getgid(), os.getgroups(), umask],
        "process": [os.nice(0), sorted(os.sched_getaffinity(0)), limits, str(signal.getsignal(signal.SIGINT))],
    }
    return f"\0{_settings()}-" + hashlib.sha256(json.dumps(same).encode()).hexdigest()[:40]


def _settings() -> str:
    """Name what the process reads of this folder and of this project, by its contents."""
    own, digest = PACKAGE, hashlib.sha256()
    kept = [f"{name.partition('.')[2].replace('.', '/') or '__init__'}.py" for name in KEPT]
    for path in (Path("params.yaml"), Path(__file__), *(own / name for name in (*kept, *HELD))):
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return f"bitladder-{digest.hexdigest()[:40]}"


def _connect() -> socket.socket | None:
    """Connect to the process, and start it if there is none yet; None where it is not to be had."""
    if not _is_usual():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    started: subprocess.Popen[bytes] | None = None
    end = time.monotonic() + START_S
    with suppress(OSError):
        address = _address()
        while time.monotonic() < end and (started is None or started.poll() is None):
            with suppress(ConnectionRefusedError):
                connection.connect(address)
                if _is_same_user(connection):
                    return connection
                break
            if started is None:
                words = [sys.executable, "-P", "-m", __name__, address.removeprefix("\0")]
                nowhere = subprocess.DEVNULL
                started = subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
            time.sleep(0.01)
    connection.close()
    return None


def _is_same_user(connection: socket.socket) -> bool:
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


def _wait(connection: socket.socket, pid: int) -> int:
    """Wait for the stage, hand Ctrl-C on to it, and end as it does."""
    while True:
        try:
            said = connection.recv(64)
            break
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGINT)
    code = int(said or -signal.SIGKILL)  # nothing said: the process that forks is gone, and took the stage along
    if code < 0:
        with suppress(OSError):  # SIGKILL has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


class _Stage(NamedTuple):
    """A fork, a descriptor that tells of its end, and who waits for it."""

    pid: int
    ended: int
    connection: socket.socket


def main(name: str) -> None:
    """Load the libraries, then fork a stage for each that connects, until there were none for IDLE_S."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        can_fork = _load_first()
        ahead = list(LOADED) if can_fork else []
        poll, stages = select.poll(), dict[int, _Stage]()  # by each descriptor that is watched
        poll.register(listener, select.POLLIN)
        while (ready := poll.poll(0 if ahead else IDLE_S * 1000)) or stages or ahead:
            if not ready:  # a stage that asks before all is loaded imports the rest itself
                if ahead:
                    _load(ahead.pop(0))
                    # edited between its name and its loading, it would be taken for what it is not
                    can_fork = can_fork and name.startswith(f"{_settings()}-")
                continue
            descriptor = ready[0][0]  # one at a time: the next may have been closed, and its number given anew
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                if can_fork and (pid := _fork(connection, listener)):
                    ended = os.pidfd_open(pid)
                    stages[ended] = stages[connection.fileno()] = _Stage(pid, ended, connection)
                    poll.register(ended, select.POLLIN)
                    poll.register(connection, 0)  # tells of a hang-up alone
                else:
                    connection.close()
            else:
                stage = stages[descriptor]
                for number in (stage.ended, stage.connection.fileno()):
                    poll.unregister(number)
                    del stages[number]
                _end(stage)


def _load_first() -> bool:
    """Load what all stages that fork need; give whether stages can be forked, or each must run and speak for itself."""
    from bitladder.errors import UserError
    from bitladder.params import load_params
    from bitladder.running import determinism

    try:
        determinism.pin(load_params().compute.threads)
        os.close(os.pidfd_open(os.getpid()))  # which some kernels and sandboxes have not
    except (UserError, OSError):
        return False
    _load("torch")
    return True


def _load(name: str) -> None:
    """Import a module; keep of this project's only KEPT. One that fails is for the stage to tell of that needs it."""
    with suppress(Exception):
        import_module(name)
    for own in [own for own in sys.modules if own.partition(".")[0] == "bitladder" and own not in KEPT]:
        del sys.modules[own]
    gc.freeze()  # what is loaded stays: its pages are shared for as long as nobody looks for cycles in them


def _fork(connection: socket.socket, listener: socket.socket) -> int | None:
    """Fork the stage that is asked for; give its process, None where nothing is asked."""
    connection.settimeout(END_S)
    terminal: list[int] = []
    try:
        asked, terminal, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        # A fork would not have the threads that a library started
        if not asked or not _is_same_user(connection) or len(list(Path("/proc/self/task").iterdir())) > 1:
            return None
        server = os.getpid()
        if not (pid := os.fork()):
            try:
                listener.close()
                connection.close()
                _be_stage(json.loads(asked), terminal, server)
            finally:
                os._exit(1)
    except OSError:
        return None
    finally:  # or whoever reads what the stage prints would wait for this process's end
        for descriptor in terminal:
            os.close(descriptor)
    with suppress(OSError):
        os.setpgid(pid, pid)
    with suppress(OSError):  # of who has gone
        connection.send(str(pid).encode())
    return pid


def _end(stage: _Stage) -> None:
    """Tell how a stage ended; end it, and what it started, if nobody waits for it any more."""
    if not select.select([stage.ended], [], [], 0)[0]:
        os.killpg(stage.pid, signal.SIGTERM)  # which torchrun hands on to its own
        if not select.select([stage.ended], [], [], END_S)[0]:
            os.kill(stage.pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(stage.pid, 0)[1])
    with suppress(OSError):
        stage.connection.send(str(code).encode())
    stage.connection.close()
    os.close(stage.ended)


def _be_stage(asked: dict[str, Any], terminal: list[int], server: int) -> None:
    """Run the script with the terminal of the one who asked, and end as an interpreter does.

    But for the taking down of all modules, which takes half a second and does nothing here.
    """
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        return
    for number, descriptor in enumerate(terminal):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    if asked["stage"] is not None:
        os.environ["DVC_STAGE"] = asked["stage"]
    sys.argv, code = asked["argv"], 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        ctypes.CDLL(None).fflush(None)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])

"""One process that has loaded torch and AIMET, and forks the stages of a `dvc repro`: loading takes longer than most.

The first stage that needs them starts it. It ends when nothing was asked of it for IDLE_S. It holds no code of the
task's, and of this project's only KEPT and what HELD has done, whose contents are part of its address: each stage
imports the rest anew, so that an edit counts at once. It serves no stage of another environment, user, limit or
installation than it was started in: those have addresses of their own (forksocket.py).

A fork keeps the bits: torch has started no threads yet, and the settings of determinism.py were made before it loaded.
"""

import atexit
import ctypes
import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bitladder.running.forksocket import KEPT, is_private, is_same_user, new_socket, settings

__all__ = ["spawn"]

IDLE_S = 10.0

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

SET_PDEATHSIG = 1  # of prctl


def spawn(path: Path) -> subprocess.Popen[bytes]:
    """Start the process; where another listens at this address already, it ends at once."""
    words, nowhere = [sys.executable, "-P", "-m", __name__, str(path)], subprocess.DEVNULL
    return subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def main(path: Path) -> None:
    """Serve at an address, unless others may use its folder or another serves there; leave no socket behind."""
    if not is_private(path.parent) or not (listener := _listen(path)):
        return
    with listener:
        own = path.stat().st_ino
        try:
            _serve(listener, path.name)
        finally:
            with suppress(OSError), _locked(path.parent):
                if path.stat().st_ino == own:
                    path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _listen(path: Path) -> socket.socket | None:
    """Listen at an address, where a server that was killed may have left its socket; None where one listens already.

    Under a lock: of two that find a dead socket, the second would else remove the one that the first has put there.
    """
    with _locked(path.parent):
        with new_socket() as other, suppress(ConnectionRefusedError, FileNotFoundError):
            other.connect(str(path))
            return None
        path.unlink(missing_ok=True)
        listener = new_socket()
        listener.bind(str(path))
        listener.listen()
        return listener


class _Stage(NamedTuple):
    """A fork, a descriptor that tells of its end, and who waits for it."""

    pid: int
    ended: int
    connection: socket.socket


def _serve(listener: socket.socket, name: str) -> None:
    """Load the libraries, then fork a stage for each that connects, until there were none for IDLE_S."""
    can_fork = _load_first()
    ahead = list(LOADED) if can_fork else []
    poll, stages = select.poll(), dict[int, _Stage]()  # by each descriptor that is watched
    poll.register(listener, select.POLLIN)
    while (ready := poll.poll(0 if ahead else IDLE_S * 1000)) or stages or ahead:
        if not ready:  # a stage that asks before all is loaded imports the rest itself
            if ahead:
                _load(ahead.pop(0))
                # edited between its name and its loading, it would be taken for what it is not
                can_fork = can_fork and name.startswith(f"{settings()}-")
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
        compute = load_params().compute
        determinism.pin(compute.threads, compute.device)
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
        if not asked or not is_same_user(connection) or len(list(Path("/proc/self/task").iterdir())) > 1:
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
    main(Path(sys.argv[1]))

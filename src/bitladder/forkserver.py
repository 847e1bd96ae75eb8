"""One process that has loaded torch and AIMET, and forks the stages of a `dvc repro`: loading takes longer than most.

The first stage that needs them starts it. It ends when nothing was asked of it for IDLE_S. It holds no code of this
project's or of the task's: each stage imports those anew, so that an edit counts at once. A stage runs in a process of
its own where anything is unusual: another system than Linux, a GPU (its driver does not survive a fork), an interpreter
with options, another environment, user, limit or installation than the one that the process was started in, or
BITLADDER_FORK=0.

A fork keeps the bits: torch has started no threads yet, and the settings of determinism.py were made before it loaded.
"""

import ctypes
import gc
import hashlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing import active_children, get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

__all__ = ["run_script", "start"]

IDLE_S = 10.0

START_S = 120.0  # how long loading may take; a few seconds are usual

LOADED = (
    "bitladder.quantize.aimet",  # first: it leaves out half of what AIMET brings along
    "aimet_torch.adaround.adaround_weight",
    "aimet_torch.batch_norm_fold",
    "aimet_torch.bn_reestimation",
    "aimet_torch.cross_layer_equalization",
    "aimet_torch.model_preparer",
    "aimet_torch.model_validator.model_validator",
    "aimet_torch.onnx",
    "aimet_torch.quantsim",
    "aimet_torch.seq_mse",
    "aimet_torch.v2",
    "onnx",
    "pydantic",
    "ruamel.yaml",
    "safetensors.torch",
    "torch._dynamo",  # which the export to ONNX asks for
    "tqdm",
)
"""What is imported ahead; what is missing here is only slower."""

GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

OF_ONE_STAGE = ("DVC_STAGE", "_")  # environment variables that differ from stage to stage

SET_PDEATHSIG = 1  # of prctl


def start() -> None:
    """Start the process that loads the libraries, and do not wait for it."""
    if _is_usual() and (connection := _connect(_address())):
        connection.close()


def run_script(script: str, arguments: list[str]) -> int | None:
    """Run a stage's script in a fork of the process that has loaded the libraries, and wait for it.

    Returns: its exit code, or None where it has not been run: the caller must then do so itself.
    """
    if not _is_usual():
        return None
    connection = _connect(_address())
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
        and not any(Path(gpu).exists() for gpu in GPUS)
    )


def _address() -> str:
    """Name the one process that may stand for this one: an abstract socket's address, gone when the process is."""
    import resource  # which Windows has not

    here, site = Path.cwd().stat(), Path(sysconfig.get_path("purelib"))
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    settings = (Path("params.yaml"), Path(__file__), Path(__file__).with_name("determinism.py"))
    same = {
        "folder": [str(Path.cwd()), here.st_dev, here.st_ino],
        "python": [sys.executable, sys.version, site.stat().st_mtime_ns],
        "environment": sorted(item for item in os.environ.items() if item[0] not in OF_ONE_STAGE),
        "process": [os.getuid(), os.getgid(), os.nice(0), sorted(os.sched_getaffinity(0)), limits],
        "settings": [hashlib.sha256(path.read_bytes()).hexdigest() for path in settings if path.exists()],
    }
    return "\0bitladder-" + hashlib.sha256(json.dumps(same).encode()).hexdigest()[:40]


def _connect(address: str) -> socket.socket | None:
    """Connect to the process, and start it if there is none yet; None where that fails."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    started: subprocess.Popen[bytes] | None = None
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with suppress(OSError):
            connection.connect(address)
            if _is_same_user(connection):
                return connection
            break
        if started is None:
            nowhere = subprocess.DEVNULL
            words = [sys.executable, "-m", __name__, address.removeprefix("\0")]
            started = subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
        elif started.poll() is not None:
            break
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
    code = int(said or -signal.SIGKILL)  # nothing said: the process that forks is gone, and takes its forks along
    if code < 0:
        with suppress(OSError):  # SIGKILL has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def main(name: str) -> None:
    """Load the libraries, then fork a stage for each that connects, until there were none for IDLE_S."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        _load()
        listener.settimeout(IDLE_S)
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if active_children():
                    continue
                return
            with connection:
                get_context("fork").Process(target=_attend, args=(connection, listener)).start()


def _load() -> None:
    from bitladder import determinism
    from bitladder.params import load_params

    determinism.pin(load_params().compute.threads)
    for name in LOADED:
        import_module(name)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        sys.exit("a library has started threads, which a fork would not have")
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitladder"]:
        del sys.modules[name]
    gc.freeze()  # what is loaded stays: its pages are shared for as long as nobody looks for cycles in them


def _attend(connection: socket.socket, listener: socket.socket) -> None:
    """Fork the stage that is asked for, and tell its exit code; end it if nobody waits for it any more."""
    listener.close()
    if not _is_same_user(connection):
        return
    asked, terminal, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    if not asked:
        return
    stage = get_context("fork").Process(target=_run_stage, args=(json.loads(asked), terminal, connection, os.getpid()))
    stage.start()
    assert stage.pid is not None
    for descriptor in terminal:
        os.close(descriptor)
    with suppress(OSError):
        os.setpgid(stage.pid, stage.pid)
    with suppress(OSError):  # of who has gone
        connection.send(str(stage.pid).encode())
    if stage.sentinel not in wait([connection, stage.sentinel]):
        os.killpg(stage.pid, signal.SIGKILL)
    stage.join()
    with suppress(OSError):
        connection.send(str(stage.exitcode).encode())


def _run_stage(asked: dict[str, Any], terminal: list[int], connection: socket.socket, parent: int) -> None:
    """Be the stage: with the terminal of the one who asked, and no longer than the process that waits for its end."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    connection.close()
    for number, descriptor in enumerate(terminal):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    if asked["stage"] is not None:
        os.environ["DVC_STAGE"] = asked["stage"]
    sys.argv = asked["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])

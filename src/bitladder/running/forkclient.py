"""How a stage has itself run in a fork of the process that has loaded torch and AIMET (forkserver.py).

It runs in a process of its own where anything is unusual: another system than Linux, a GPU (its driver does not survive
a fork), an interpreter with options, BITLADDER_FORK=0, or a folder for the socket that others may use.
"""

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from bitladder.running.forksocket import address, is_private, is_same_user, new_socket

__all__ = ["run_script", "start"]

START_S = 120.0  # how long loading may take; a few seconds are usual

GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


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


def _connect() -> socket.socket | None:
    """Connect to the process, and start it if there is none yet; None where it is not to be had."""
    if not _is_usual():
        return None
    connection = new_socket()
    started, has_ended = None, False
    end = time.monotonic() + START_S
    with suppress(OSError):  # such as of a path that is too long for a socket
        path = address()
        while is_private(path.parent) and time.monotonic() < end:
            with suppress(ConnectionRefusedError, FileNotFoundError):
                connection.connect(str(path))
                if is_same_user(connection):
                    return connection
                break
            if has_ended:
                break
            if started is None:
                from bitladder.running import forkserver  # slow to import, and most stages find it started

                started = forkserver.spawn(path)
            has_ended = started.poll() is not None  # perhaps since another was faster: it is there by now
            time.sleep(0.01)
    connection.close()
    return None


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

"""Where stages and the fork server meet: a socket in a folder of this user's own, named after what both have in common.

It is no abstract socket, though that would need no folder: a container that shares the network namespace could connect
to one, and have code run outside.
"""

import hashlib
import json
import os
import signal
import socket
import stat
import struct
import sys
import sysconfig
from pathlib import Path

from bitladder.paths import PACKAGE

__all__ = ["HELD", "KEPT", "address", "is_private", "is_same_user", "new_socket", "settings"]

KEPT = (
    "bitladder",
    "bitladder.errors",
    "bitladder.params",
    "bitladder.precision",
    "bitladder.running",
    "bitladder.running.determinism",
    "bitladder.running.patches",
    "bitladder.running.version",
    "bitladder.socs",
    "bitladder.validation",
)
"""Modules of this project's that stay loaded: building the classes of params.py takes longer than all the others."""

HELD = (
    "paths.py",
    "running/forkserver.py",
    "running/forksocket.py",
    "quantize/__init__.py",
    "quantize/sim/__init__.py",
    "quantize/sim/aimet.py",
    "socs.yaml",
)
"""What else it has read of this project, and does not forget."""

OF_ONE_STAGE = ("DVC_STAGE", "_")  # environment variables that differ from stage to stage


def new_socket() -> socket.socket:
    """Make a socket of messages: what one end sends at once, the other receives at once."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def address() -> Path:
    """Name the socket of the one process that may stand for this one; its folder is for the caller to check."""
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
    # Short, as a socket's path has at most 107 bytes
    return _folder() / f"{settings()}-{hashlib.sha256(json.dumps(same).encode()).hexdigest()[:16]}"


def _folder() -> Path:
    """Give the folder of this user's sockets, which is made if it is not there."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and is_private(Path(runtime)):
        folder = Path(runtime, "bitladder")
    else:
        import tempfile  # slow to import, and after a login the variable is set

        folder = Path(tempfile.gettempdir(), f"bitladder-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_private(folder: Path) -> bool:
    """Whether it is a folder, and no link to one, that is this user's, and closed to everybody else."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return found.st_mode == stat.S_IFDIR | 0o700 and found.st_uid == os.getuid()


def is_same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


def settings() -> str:
    """Name what the process reads of this folder and of this project, by its contents."""
    digest = hashlib.sha256()
    kept = [f"{name.partition('.')[2].replace('.', '/') or '__init__'}.py" for name in KEPT]
    for path in (Path("params.yaml"), *(PACKAGE / name for name in (*kept, *HELD))):
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()[:16]

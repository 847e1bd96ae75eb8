"""A real OpenSSH server on loopback: the device is this machine, whose backend emulates an NPU."""

import shutil
import socket
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")

NAME = "board"


@dataclass
class Server:
    """The server's process, the folder of its keys and the client's, and its port."""

    process: subprocess.Popen
    folder: Path
    port: int

    def configure(self, path: Path, known: str | None = None, key: str = "client") -> None:
        """Write the configuration of a client, and the `ssh` in `path` that reads it, as a user's own is read."""
        hosts = path / "known_hosts"
        public = (self.folder / f"{known or 'host'}.pub").read_text().rsplit(" ", 1)[0]
        hosts.write_text(f"[127.0.0.1]:{self.port} {public}\n")
        path.joinpath("config").write_text(
            f"Host {NAME}\n  HostName 127.0.0.1\n  Port {self.port}\n  UserKnownHostsFile {hosts}\n"
            f"  StrictHostKeyChecking yes\n  IdentityFile {self.folder / key}\n  IdentitiesOnly yes\n"
            "  ControlPath none\n"
        )
        client = path / "ssh"
        client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh", path="/usr/bin:/bin")} -F {path / "config"} "$@"\n')
        client.chmod(0o755)

    def break_connections(self) -> None:
        """End what serves the connections there are; the server goes on."""
        subprocess.run(["pkill", "-KILL", "-P", str(self.process.pid)], check=False)


def start(folder: Path) -> Server:
    """Make keys and start a server with them."""
    for name in ("host", "client", "other"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    shutil.copy(folder / "client.pub", folder / "authorized_keys")
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder.joinpath("sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized_keys'}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
    )
    Path("/run/sshd").mkdir(parents=True, exist_ok=True)  # where it keeps privileges apart
    process = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    for _ in range(100):
        with closing(socket.socket()) as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return Server(process, folder, port)
        time.sleep(0.05)
    raise RuntimeError("sshd does not start")

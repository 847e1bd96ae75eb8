"""Nodes of a Ray cluster on this machine, each started as a user starts one."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

SETTINGS = {
    # A node that has gone is missed in seconds; by default it is half a minute
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    # What serves ray:// starts for each client, which takes more than the default of 30 s on a machine that is busy
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
}


def wait_until(true: Callable[[], object], seconds: float = 300) -> None:
    """Wait for something to come true; an error where it does not."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited for {seconds} s")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Node:
    """A node with so many CPUs: the head of a new cluster, or one that joins the cluster at `address`."""

    def __init__(self, folder: Path, cpus: int, address: str | None = None) -> None:
        self.client_port = _free_port()
        ports = ["--port=0", f"--ray-client-server-port={self.client_port}"]
        head = ["--head", *ports, "--include-dashboard=false", "--no-monitor", f"--temp-dir={folder}"]
        words = head if address is None else [f"--address={address}"]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--include-log-monitor=false"]
        command += [f"--num-cpus={cpus}", *words]
        self._log = (folder / f"node-{time.monotonic_ns()}.log").open("w+b")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | SETTINGS
        self._started = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        self.address = address or self._wait(r"--address='([^']+)'")
        self._wait("Ray runtime started")

    def kill(self) -> None:
        """End it as a machine ends whose power is cut: all of its processes, without a word. It may have ended."""
        if self._started.returncode is not None:
            return
        for process in [*self._processes(), psutil.Process(self._started.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._started.wait(60)
        self._log.close()

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._started.pid).children(recursive=True)
        return []

    def _wait(self, pattern: str) -> str:
        for _ in range(600):
            said = Path(self._log.name).read_text()
            if found := re.search(pattern, said):
                return found[found.lastindex or 0]
            if self._started.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"no node started: {said}")

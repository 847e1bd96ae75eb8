"""A stand-in for a phone's adbd, by the protocol that the real adb speaks: `shell` and `sync` over one TCP connection.

The device is this machine. It has what Android devices of today have: shell_v2, which hands out exit codes and keeps
the two outputs apart.
"""

import contextlib
import os
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

__all__ = ["Adbd"]

COMMANDS = (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
CNXN, OPEN, OKAY, CLSE, WRTE = (int.from_bytes(name, "little") for name in COMMANDS)
VERSION, LARGEST = 0x01000001, 64 << 10  # from this version on, messages carry no checksum
BANNER = b"device::ro.product.name=stand-in;ro.product.model=stand-in;ro.product.device=stand-in;features=shell_v2"
STDOUT, STDERR, EXIT = 1, 2, 3


@dataclass
class Stream:
    """One service that is open: what came for it, and whether what was sent was taken."""

    remote: int
    came: Queue = field(default_factory=Queue)
    taken: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    rest: bytes = b""


class Adbd:
    """Listens on a port of loopback; its serial number is what `adb connect` calls it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                _Connection(self._listener.accept()[0])


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lock, self._streams = connection, threading.Lock(), {}
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self._read(24))
                data = self._read(size)
                if command == CNXN:
                    self._send(CNXN, VERSION, LARGEST, BANNER)
                elif command == OPEN:
                    number = len(self._streams) + 1
                    self._streams[number] = Stream(first)
                    self._send(OKAY, number, first)
                    service = data.rstrip(b"\0").decode()
                    threading.Thread(target=self._answer, args=(service, number), daemon=True).start()
                elif command == WRTE:
                    self._streams[second].came.put(data)
                    self._send(OKAY, second, first)
                elif command == OKAY:
                    self._streams[second].taken.release()
                elif command == CLSE and second in self._streams:
                    self._streams[second].came.put(b"")

    def _answer(self, service: str, number: int) -> None:
        with contextlib.suppress(OSError):
            if service.startswith("shell,v2"):
                self._shell(service.partition(":")[2], number)
            elif service == "sync:":
                self._sync(number)
            self._send(CLSE, number, self._streams[number].remote)

    def _shell(self, command: str, number: int) -> None:
        done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        for kind, text in ((STDOUT, done.stdout), (STDERR, done.stderr), (EXIT, bytes([done.returncode & 255]))):
            for start in range(0, len(text), LARGEST // 2):
                part = text[start : start + LARGEST // 2]
                self._write(number, struct.pack("<BI", kind, len(part)) + part)

    def _sync(self, number: int) -> None:
        while True:
            head = self._take(number, 8)
            if len(head) < 8 or head[:4] == b"QUIT":
                return
            size = struct.unpack("<I", head[4:])[0]
            argument = self._take(number, size).decode()
            if head[:4] == b"STAT":
                path = Path(argument)
                found = path.stat() if path.exists() else None
                told = (found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)) if found else (0, 0, 0)
                self._write(number, b"STAT" + struct.pack("<3I", *told))
            elif head[:4] == b"SEND":
                self._receive(number, Path(argument.rpartition(",")[0]))
            elif head[:4] == b"RECV":
                content = Path(argument).read_bytes()
                for start in range(0, len(content), LARGEST // 2):
                    part = content[start : start + LARGEST // 2]
                    self._write(number, b"DATA" + struct.pack("<I", len(part)) + part)
                self._write(number, b"DONE" + bytes(4))

    def _receive(self, number: int, path: Path) -> None:
        content = b""
        while (head := self._take(number, 8))[:4] == b"DATA":
            content += self._take(number, struct.unpack("<I", head[4:])[0])
        try:
            path.write_bytes(content)
        except OSError as error:
            said = os.strerror(error.errno).encode()
            self._write(number, b"FAIL" + struct.pack("<I", len(said)) + said)
            return
        self._write(number, b"OKAY" + bytes(4))

    def _take(self, number: int, size: int) -> bytes:
        stream = self._streams[number]
        while len(stream.rest) < size:
            if not (more := stream.came.get()):
                break
            stream.rest += more
        taken, stream.rest = stream.rest[:size], stream.rest[size:]
        return taken

    def _write(self, number: int, data: bytes) -> None:
        self._send(WRTE, number, self._streams[number].remote, data)
        self._streams[number].taken.acquire()

    def _send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, first, second, len(data), 0, command ^ 0xFFFFFFFF)
        with self._lock:
            self._connection.sendall(head + data)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := self._connection.recv(size - len(data))):
                raise OSError("closed")
            data += more
        return data

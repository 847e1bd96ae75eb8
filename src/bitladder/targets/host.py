"""A device that OpenSSH reaches: files go there, the runner works there, and what keeps it from working in one line.

The user's own configuration, keys and known hosts count. Host keys are checked as the user has it, and nothing is asked
for: no password is taken or kept.
"""

import hashlib
import json
import secrets
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bitladder.errors import UserError
from bitladder.targets import runner
from bitladder.targets.remote import MODEL, LostError, last_line
from bitladder.targets.runner import Finding, Model, receive, send

__all__ = ["Conversation", "Host", "findings_of", "words_of"]

OPTIONS = [
    f"-o{option}" for option in ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3")
]

FOLDER = ".cache/bitladder"  # under the user's home there
RUNNER = "runner.py"
KEPT_MIN = 1440  # minutes after which what a killed run left there is removed

LOST = 255  # ssh's own exit code; others are the command's
NO_COMMAND, KILLED = 127, 137

ADVICE = {
    "host key": "look whether it is the device that you mean, then connect once by hand: ssh HOST",
    "identification has changed": "look whether it is the device that you mean, then ssh-keygen -R HOST",
    "permission denied": "put your key there: ssh-copy-id HOST",
    "could not resolve": "is the name right?",
    "refused": "does an SSH server run there?",
    "timed out": "is it on, and in this network?",
    "no route": "is it on, and in this network?",
}
"""What to do about what ssh says, by words of it."""

Answer = tuple[dict[str, Any], dict[str, Any]]
"""What a runner tells, and the outputs by name."""


class Host:
    """A host, as ssh takes it, and its Python."""

    def __init__(self, name: str, python: str) -> None:
        self.name, self.python = name, python

    def check(self, folder: str, model: Model | None = None) -> list[Finding]:
        """Run the runner's check in `folder`, and give what it found. Raise UserError where it cannot run."""
        words = shlex.join([RUNNER, "--check", "--json", *words_of(model)])
        return findings_of(self._run(f"cd {folder} && {self.python} {words}"), self._place)

    @contextmanager
    def folder(self, files: Mapping[str, Path]) -> Iterator[str]:
        """Give a new folder there with the runner and a model's files in it, which is removed at the end.

        Python looks for modules beside the runner first: a file by another ending than a model's raises UserError.
        """
        if foreign := [file for file in files if Path(file).suffix not in MODEL]:
            raise UserError(f"{foreign[0]}: is no part of a compiled model, and is not sent to {self.name}")
        name = f"{FOLDER}/{secrets.token_hex(8)}"
        old = f"find {FOLDER} -mindepth 1 -maxdepth 1 -mmin +{KEPT_MIN} -exec rm -rf {{}} +"
        self._must(f"mkdir -p {FOLDER} && {{ {old}; mkdir {name}; }}", None)
        try:
            for file, path in {RUNNER: Path(runner.__file__), **files}.items():
                content = path.read_bytes()
                there = shlex.quote(f"{name}/{file}")
                written = self._must(f"cat > {there} && sha256sum < {there}", content)
                if hashlib.sha256(content).hexdigest() not in written:
                    raise UserError(f"{self._place}: {file} did not arrive whole; is its disk full?")
            yield name
        finally:
            with suppress(UserError, LostError):
                self._run(f"rm -rf {name}")

    @contextmanager
    def serve(self, folder: str, model: Model, log: Path) -> Iterator["Conversation"]:
        """Start the runner there; it loads the model once, and answers until the end."""
        words = shlex.join([RUNNER, "--serve", *words_of(model)])
        with log.open("ab") as errors:
            process = subprocess.Popen(
                self._ssh(f"cd {folder} && exec {self.python} {words}"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                yield Conversation(self, process, log)
            finally:
                process.kill()
                process.wait()

    def refusal(self, code: int, said: str) -> Exception:
        """Give what to raise for a command that ended with an exit code, and what it said last."""
        if code == LOST:
            known = next((advice for words, advice in ADVICE.items() if words in said.lower()), None)
            if known is None:
                return LostError(said)
            return UserError(f"{self._place}: {last_line(said.encode())}; {known.replace('HOST', self.name)}")
        if code == NO_COMMAND:
            return UserError(
                f"{self._place}: has no {self.python}; install Python there, or name it in target.python ({said})"
            )
        if code in (KILLED, -9):
            return UserError(
                f"{self._place}: the runner was killed there; is its memory too small? Run again: it goes on"
            )
        return UserError(f"{self._place}: {said or f'exit code {code}'}{runner.explain(said)}")

    @property
    def _place(self) -> str:
        return f"target.host: {self.name}"

    def _ssh(self, command: str) -> list[str]:
        return ["ssh", *OPTIONS, "--", self.name, command]

    def _run(self, command: str, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        try:
            done = subprocess.run(self._ssh(command), input=content or b"", capture_output=True, check=False)
        except FileNotFoundError:
            raise UserError("target.backend: ssh needs OpenSSH's client on this machine; install it") from None
        if done.returncode in (LOST, NO_COMMAND):
            refusal = self.refusal(done.returncode, last_line(done.stderr))
            if isinstance(refusal, LostError):
                raise UserError(f"{self._place}: {last_line(done.stderr)}")
            raise refusal
        return done

    def _must(self, command: str, content: bytes | None) -> str:
        done = self._run(command, content)
        if done.returncode:
            raise self.refusal(done.returncode, last_line(done.stderr))
        return done.stdout.decode("utf-8", "replace")


class Conversation:
    """Questions to a runner that works, and its answers."""

    def __init__(self, host: Host, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._host, self._process, self._log = host, process, log

    def hear(self, limit_s: float) -> Answer:
        """Wait for an answer.

        Raises LostError where the connection broke; UserError where the runner says what is wrong, ends, or takes
        longer than `limit_s`.
        """
        return self._within(limit_s, lambda: None)

    def ask(self, words: dict[str, Any], arrays: dict[str, Any], limit_s: float) -> Answer:
        """Send inputs, and wait for what comes of them, as `hear` does."""
        return self._within(limit_s, lambda: send(self._pipe("stdin"), words, arrays))

    def _within(self, limit_s: float, first: Callable[[], None]) -> Answer:
        watch = threading.Timer(limit_s, self._process.kill)
        watch.start()
        try:
            with suppress(BrokenPipeError):  # why is told by what is heard
                first()
            answer = receive(self._pipe("stdout"))
        finally:
            late = not watch.is_alive()
            watch.cancel()
        name = f"target.host: {self._host.name}"
        if answer is None and late:
            raise UserError(f"{name}: no answer in {limit_s:g} s; is target.sample_limit_s too short?")
        if answer is None:
            raise self._host.refusal(self._process.wait(), last_line(self._log.read_bytes()))
        if "error" in answer[0]:
            raise UserError(f"{name}: {answer[0]['error']}")
        return answer

    def _pipe(self, name: str) -> Any:
        return getattr(self._process, name)


def findings_of(done: subprocess.CompletedProcess[bytes], where: str) -> list[Finding]:
    """Read what a runner's check printed, after what the backend prints. Raise UserError where there is nothing."""
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    with suppress(ValueError, IndexError):
        found: list[Finding] = json.loads(lines[-1])
        return found
    raise UserError(f"{where}: the check fails: {last_line(done.stderr) or f'exit code {done.returncode}'}")


def words_of(model: Model | None) -> list[str]:
    """Give the words that name a model to the runner."""
    return ["--model", json.dumps(model._asdict())] if model else []

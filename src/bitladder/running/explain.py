"""What a library or the system raised, as one line for people; the full text is kept. Starts without torch."""

import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bitladder.errors import RefusedError, UserError
from bitladder.paths import NOTES, PACKAGE, PARAMS
from bitladder.running.files import write_text

__all__ = ["explain", "is_full_disk", "keep_text", "refusing", "scope_name", "scope_path", "shown", "user_line"]

FULL = (errno.ENOSPC, errno.EDQUOT)

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)

NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|bad[ _]alloc", re.IGNORECASE)

WRAPPER, INSIDE = "HalfPrecision", "model."  # the class that holds the user's network in FP16, and where

LONGEST = 300  # characters of another's message


def explain(error: BaseException) -> str:
    """Say in one line what was raised, in which layer of the network, at which line of the user's.

    It names nothing that differs from run to run or from machine to machine, since it may go into a record.
    """
    if is_full_disk(error):
        return f"the disk is full ({shown(error)}); make room, and `dvc repro` goes on from here"
    if isinstance(error, OSError) and error.strerror:
        what = shown(error.filename) if error.filename else type(error).__name__
        advice = "; make it writable for this user" if error.errno in CLOSED else ""
        return f"{what}: {error.strerror}{advice}"
    if _is_out_of_memory(error):
        return f"out of memory ({shown(error)}); lower the batch sizes of params.yaml, or give it more"
    layer = _layer(error)
    where = user_line(error) or _innermost_line(error)
    return f"{type(error).__name__}: {shown(error)}{f' in layer {layer!r}' if layer else ''}{where}"


def keep_text(error: BaseException, title: str) -> str:
    """Write an error's traceback to a file; give the words that name it, none where it cannot be written."""
    path = (NOTES if PARAMS.is_file() else Path(tempfile.gettempdir())) / f"{title}.txt"
    with suppress(OSError):
        write_text(path, "".join(traceback.format_exception(error)))
        return f"; {path} has the full text"
    return ""


@contextmanager
def refusing(title: str) -> Iterator[None]:
    """Raise RefusedError for what a library raises of a rung. What the machine is at fault for stays what it is.

    Args:
        title: of the file in build/notes that keeps the full text.

    """
    try:
        yield
    except Exception as error:  # AIMET, the exporters and ONNX Runtime raise any kind
        if isinstance(error, UserError | OSError | ImportError) or is_full_disk(error) or _is_out_of_memory(error):
            raise
        keep_text(error, title)
        raise RefusedError(explain(error)) from error


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is a full disk's; libraries in C++ and Rust have only words for it."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def user_line(error: BaseException) -> str:
    """Name the last line of the user's own that an error passed through; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({_short(error.filename)}:{error.lineno})"
    ours, tasks = str(PACKAGE), str(PACKAGE / "tasks/builtin")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        installed = "site-packages" in frame.filename or frame.filename.startswith((sys.base_prefix, "<"))
        own_task = frame.filename.startswith(tasks)
        if not installed and (own_task or not frame.filename.startswith(ours)):
            return f" ({_short(frame.filename)}:{frame.lineno})"
    return ""


def shown(message: object) -> str:
    """Give a message in one line, without what differs between runs, users and machines."""
    text = " ".join(str(message).split())
    text = re.sub(rf"\.([^\s/]+)\.{os.getpid()}\b", r"\1", text)  # a file as it is written
    text = re.sub(r" (?:object )?at 0x[0-9a-f]+", "", text).replace(f"{Path.cwd()}/", "")
    return re.sub(r"[^\s'\"]*/site-packages/", "", text)[:LONGEST]


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _innermost_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({shown(frames[-1].filename.replace(f'{PACKAGE.parent}/', ''))}:{frames[-1].lineno})" if frames else ""


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or bool(
        NO_MEMORY.search(str(error))
    )  # fmt: skip


def _layer(error: BaseException | None) -> str:
    """Name the layer of the network that an error, or the one that caused it, came up in; empty if none is known."""
    while error is not None:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if found := _exported_layer(frames) or _running_layer(frames):
            return found
        error = error.__cause__
    return ""


def scope_path(scopes: Sequence[str]) -> str:
    """Give the path of a module from what torch's exporter calls those around it and itself.

    That is the last part of its path that is no number, and what follows: `features`, `features.0`, `conv`.
    """
    path = ""
    for scope in scopes:
        tail = scope_name(path)
        path = f"{path}.{scope.removeprefix(f'{tail}.') if tail else scope}".removeprefix(".")
    return path


def scope_name(path: str) -> str:
    """Give what torch's exporter calls a module of this path."""
    parts = path.split(".")
    last = max((index for index, part in enumerate(parts) if not part.isnumeric()), default=0)
    return ".".join(parts[last:])


def _exported_layer(frames: list[Any]) -> str:
    """Name the layer whose node torch's exporter held: its scope is like `Net::/torch.nn.Sequential::block`."""
    for frame in reversed(frames):
        scope = getattr(frame.f_locals.get("node"), "scopeName", None)
        if callable(scope):
            root, *parts = scope().split("/")
            path = scope_path([part.rpartition("::")[2] for part in parts])
            return path.removeprefix(INSIDE) if WRAPPER in root else path
    return ""


def _running_layer(frames: list[Any]) -> str:
    """Name the innermost module that was running, as the outermost one calls it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    running = [frame.f_locals.get("self") for frame in frames]
    modules = [one for one in running if isinstance(one, torch.nn.Module)]
    names = {id(module): name for name, module in modules[0].named_modules()} if modules else {}
    path = next(filter(None, (names.get(id(module)) for module in reversed(modules))), "")
    return path.removeprefix(INSIDE) if modules and type(modules[0]).__name__ == WRAPPER else path

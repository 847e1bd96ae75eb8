"""What can happen to a process of the emulator, in place of its outputs: functions that a new process can import."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from bitladder.targets.backend import run_batch

MARK = 7.0
"""What the inputs of the sample hold that it happens to."""


def _is_marked(inputs: dict[str, Any]) -> bool:
    return all((values == MARK).all() for values in inputs.values())


def never_answers_the_marked(*arguments: Any) -> Any:
    if _is_marked(arguments[-1]):
        time.sleep(3600)
    return run_batch(*arguments)


def dies_of_the_marked(*arguments: Any) -> Any:
    if _is_marked(arguments[-1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_batch(*arguments)


def never_ends() -> None:
    while True:
        time.sleep(0.1)


def takes_a_while(*arguments: Any) -> Any:
    time.sleep(0.2)
    return run_batch(*arguments)


def loses_the_worker_once(*arguments: Any) -> Any:
    """Kill the worker of a cluster that this process belongs to, but not the one that tries again."""
    if _is_marked(arguments[-1]) and _first_time():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(3600)
    return run_batch(*arguments)


def dies_once_of_the_marked(*arguments: Any) -> Any:
    if _is_marked(arguments[-1]) and _first_time():
        os.kill(os.getpid(), signal.SIGKILL)
    return run_batch(*arguments)


def _first_time() -> bool:
    """Whether nobody has asked before, of all processes that share the folder of MISHAPS."""
    try:
        Path(os.environ["MISHAPS"], "happened").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

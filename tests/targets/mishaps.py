"""What can happen to a process of the emulator, in place of its outputs: functions that a new process can import."""

import os
import signal
import time
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

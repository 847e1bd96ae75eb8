"""What can happen to a process of the emulator, in place of its answer: functions that a new process can import."""

import os
import signal
import time
from typing import Any

from bitladder.targets.backend import answer

_asked = 0


def _is_the_20th() -> bool:
    global _asked
    _asked += 1
    return _asked == 20


def never_answers_the_20th(*arguments: Any) -> Any:
    if _is_the_20th():
        time.sleep(3600)
    return answer(*arguments)


def dies_of_the_20th(*arguments: Any) -> Any:
    if _is_the_20th():
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(*arguments)

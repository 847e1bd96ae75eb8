"""Processes to which CPUID tells of another processor (other_cpu.c): what changes with it is no kernel's choice."""

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["KINDS", "settings", "why_not"]

KINDS = ("intel", "amd")
"""Both without AVX-512 and what came after it, with smaller caches."""


@cache
def _library() -> Path | None:
    """Compile it. None where it cannot be: another kind of machine, no compiler, or a CPUID that never faults."""
    compiler = shutil.which("cc")
    if platform.system() != "Linux" or platform.machine() != "x86_64" or compiler is None:
        return None
    library = Path(mkdtemp()) / "other_cpu.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_suffix(".c")], check=True)
    tried = subprocess.run(["true"], env=os.environ | _settings(library, "intel"), check=False)
    return library if tried.returncode == 0 else None


def why_not() -> str | None:
    """Say why it cannot be done here; None where it can."""
    return None if _library() else "needs Linux on x86-64, a C compiler, and a processor whose CPUID can fault"


def settings(kind: str) -> dict[str, str]:
    """Give what the environment of a process must have so that it sees this kind of processor."""
    library = _library()
    assert library is not None
    return _settings(library, kind)


def _settings(library: Path, kind: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "OTHER_CPU": kind}

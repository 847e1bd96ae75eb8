"""The one place that pins what would change bits: threads, CPU instruction set, seeds.

Libraries read most of this from the environment once, when they are loaded, so `pin` comes before their import.
"""

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from bitladder.errors import UserError
from bitladder.running.patches import in_force

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_device", "pin", "seed_all"]

INSTRUCTION_SET = {
    "ATEN_CPU_CAPABILITY": "avx2",  # the newest that all x86-64 machines of the last ten years have
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # MKL's other branches differ between Intel and AMD
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's products: of the kernels for AVX2, those that all have
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",  # numpy's own loops: the same
}

ESTIMATED = {
    "sqrt": "sqrt",
    "log2": "log2",
    "log10": "log10",
    "tan": "tan",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
}
"""torch's functions for which MKL starts from an estimate of the processor's, each with numpy's name of it."""

_LIBRARIES: list[Any] = []


def pin(threads: int, device: str = "cpu") -> None:
    """Fix the number of threads, the instruction set and the kind of device.

    Call it before torch is imported, or with the same again.
    """
    settings = INSTRUCTION_SET | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's, with little to do; and it would start them when it is imported
        "OMP_DYNAMIC": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        # Changes no bits. Threads that wait spin for a moment: asleep at once, they halve the speed of small layers;
        # spinning for long, as is the default, they take the cores from other processes.
        "GOMP_SPINCOUNT": "20000",
        # torch.compile is not used, and importing it takes 3 s of each stage
        "TORCHDYNAMO_DISABLE": "1",
        # Sums on a GPU are the same each time with it only
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if device == "cpu":
        settings["CUDA_VISIBLE_DEVICES"] = ""  # what runs on the CPU by params.yaml does so where there is a GPU too
    if {"torch", "numpy"} & sys.modules.keys() and not settings.items() <= os.environ.items():
        raise RuntimeError(
            "pin() must be called before numpy and torch are imported: they have read their settings by then"
        )
    os.environ.update(settings)


def seed_all(seed: int) -> None:
    """Seed every generator that a stage may draw from without having been given one."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if in_force("same-roots"):
        _same_roots()


@cache
def _same_roots() -> None:
    """Have numpy take torch's roots and the like on the CPU.

    torch has MKL do it, which starts from the processor's own estimate (the instruction rsqrtps). That is each maker's
    own, and a fifth of MKL's roots are one bit off. AdamW takes a root in each step.
    """
    import torch

    library = torch.library.Library("aten", "IMPL")
    _LIBRARIES.append(library)  # what it put in goes with it
    for name, other in ESTIMATED.items():
        run = _by_numpy(other)

        def out(values: "Tensor", *, out: "Tensor", run: "Callable[[Tensor], Tensor]" = run) -> "Tensor":
            return out.resize_(values.shape).copy_(run(values))

        def inside(values: "Tensor", run: "Callable[[Tensor], Tensor]" = run) -> "Tensor":
            return values.copy_(run(values))

        for kind, put in ((name, run), (f"{name}.out", out), (f"{name}_", inside)):
            library.impl(kind, put, "CPU", allow_override=True)


def _by_numpy(name: str) -> "Callable[[Tensor], Tensor]":
    """Give a function in float64 by numpy, its result rounded to the type of what comes in."""
    import numpy as np
    import torch

    function = getattr(np, name)

    def run(values: "Tensor") -> "Tensor":
        own = values.dtype
        kind = own if own.is_floating_point or own.is_complex else torch.get_default_dtype()
        with np.errstate(all="ignore"):
            found = function(values.detach().to(torch.complex128 if own.is_complex else torch.float64).numpy())
        return torch.as_tensor(found).to(kind)

    return run


def check_device(wanted: str) -> None:
    """Refuse a GPU that is not there; have one give the same bits each time. Raises UserError."""
    if wanted == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "compute.device: cuda, and torch finds no GPU here; set compute.device: cpu, or run where there is one"
        )
    torch.use_deterministic_algorithms(True)

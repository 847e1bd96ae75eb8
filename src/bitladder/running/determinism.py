"""The one place that pins what would change bits: threads, CPU instruction set, seeds.

Libraries read most of this from the environment once, when they are loaded, so `pin` comes before their import.
"""

import os
import sys

from bitladder.errors import UserError

__all__ = ["check_device", "pin", "seed_all"]

INSTRUCTION_SET = {
    "ATEN_CPU_CAPABILITY": "avx2",  # the newest that all x86-64 machines of the last ten years have
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # MKL's other branches differ between Intel and AMD
}


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
    if "torch" in sys.modules and not settings.items() <= os.environ.items():
        raise RuntimeError("pin() must be called before torch is imported: it has read its settings by then")
    os.environ.update(settings)


def seed_all(seed: int) -> None:
    """Seed every generator that a stage may draw from without having been given one."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


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
    torch.backends.cudnn.benchmark = False

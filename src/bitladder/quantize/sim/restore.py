"""A rung's sim, rebuilt in a later stage from what an earlier one has saved."""

from pathlib import Path

from torch import Tensor, nn

from bitladder.params import Params
from bitladder.paths import PREPARED
from bitladder.quantize.prepare.prepare import load_prepared
from bitladder.quantize.sim.relu6 import keep_relu, needs_relu
from bitladder.quantize.sim.sim import Sim, build_sim, sim_type
from bitladder.tasks.task import Task

__all__ = ["restore"]


def restore(params: Params, rung: str, task: Task, sample: tuple[Tensor, ...], saved: Path) -> tuple[Sim, nn.Module]:
    """Build the rung's sim from the baseline's network, and put in the weights, bits and ranges in `saved`.

    Returns: the sim; the network in FP32 that it was built from.
    """
    model = load_prepared(task, sample, PREPARED, params.prepare.exclude)
    if needs_relu(saved):
        sim_type(model).swap_relu6(model)
        keep_relu(model)
    sim = build_sim(model, sample, params.ladder[rung].precision, params.soc.quantsim_config)
    sim.load(saved)
    return sim, model

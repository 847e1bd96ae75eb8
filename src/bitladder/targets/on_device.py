"""Any graph on the device of target.backend, one with more outputs than the network's among them."""

from pathlib import Path

from bitladder.errors import UserError
from bitladder.network.outputs import Outputs
from bitladder.params import TargetParams
from bitladder.socs import Soc
from bitladder.targets.context import Compiled, run
from bitladder.targets.gap import Execute
from bitladder.targets.hexagon import Snapdragon
from bitladder.targets.profile import find_target
from bitladder.targets.remote import Remote
from bitladder.tasks.samples import Samples

__all__ = ["on_device"]

WHY_NOT = {
    "hexagon-emulator": "is no device; set ssh, adb or snapdragon, or leave out --on device",
    "ai-hub": "compiles its own graph from the model, which hands out no tensor between layers; leave out --on device",
}


def on_device(soc: Soc, settings: TargetParams) -> Execute:
    """Give what runs a quantized graph on the device. Raise UserError where the backend has none that can be asked."""
    if why := WHY_NOT.get(settings.backend):
        raise UserError(f"target.backend: {settings.backend} {why}")
    target = find_target(soc, settings)

    def execute(compiled: Compiled, split: Samples, workspace: Path) -> Outputs:
        if isinstance(target, Remote):
            target.check()
            return target.run(compiled, False, split, workspace).whole()
        if isinstance(target, Snapdragon):
            target.check(workspace)
        return run(compiled, soc, False, split, settings, workspace)  # the backend takes this machine's NPU

    return execute

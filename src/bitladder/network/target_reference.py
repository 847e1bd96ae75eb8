"""What the target's outputs are compared with: the simulation's outputs on the samples that the target runs."""

import shutil

from torch import nn

from bitladder.network.outputs import StoredOutputs
from bitladder.network.scoring import save_score, score
from bitladder.params import Params
from bitladder.paths import TASK, TRAINED, RungFiles, samples
from bitladder.running.resume import fingerprint, workspace
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Samples

__all__ = ["keep_reference"]


def keep_reference(
    files: RungFiles, model: nn.Module, fp32: nn.Module, evaluation: Samples, metric: Metric, params: Params
) -> None:
    """Keep the outputs of the samples that the target will run, and the metric of each, of FP32 too.

    Args:
        files: of the rung; its `outputs` and `reference` are written.
        model: the simulation, or the network in FP16.
        fp32: the user's network.
        evaluation: the split; the target runs the first `target.samples` of it.
        metric: the task's.
        params: of the pipeline.

    """
    own = (params.task, params.compute.bits, params.evaluate, params.target.samples)
    made_of = (samples("evaluation"), TRAINED, TASK, *((files.sim,) if files.sim.is_file() else ()))
    with workspace(f"reference-{files.rung}", fingerprint(own, files=made_of)) as work:
        kept, size = StoredOutputs(work / "outputs"), params.evaluate.batch_size
        few = evaluation.first(params.target.samples)
        found = score(model, few, metric, size, f"{files.rung} for the target", fp32, kept, work)
        shutil.rmtree(files.outputs, ignore_errors=True)
        files.outputs.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(kept.folder, files.outputs)
    save_score(files.reference, found)

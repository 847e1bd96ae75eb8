"""train: FP32 weights from scratch, or those the task's model came with where train.epochs is 0."""

from bitladder.network.model import build_network
from bitladder.network.training import Recipe, fit
from bitladder.params import Params
from bitladder.paths import TASK, TRAINED, TRAINING, samples
from bitladder.running.determinism import seed_all
from bitladder.running.files import save_tensors, write_csv
from bitladder.running.resume import fingerprint, workspace
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task

__all__ = ["main"]


def main(params: Params) -> None:
    """Write build/train and metrics/train.csv."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    data = samples("train")
    model = build_network(task)
    recipe = Recipe(**params.train.model_dump(), seed=params.seed)
    with workspace("train", fingerprint(params.task, recipe, params.compute.bits, files=(data, TASK))) as folder:
        history = fit(model, task, load_samples(task, params, "train"), recipe, folder)
    save_tensors(TRAINED, model.state_dict())
    write_csv(TRAINING, ["epoch", "train_loss"], map(vars, history))

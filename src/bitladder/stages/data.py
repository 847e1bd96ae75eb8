"""data: the task tried on two samples, and its samples in the splits that the other stages read.

What the task is made of goes into one file besides, for the stages below to depend on.
"""

from bitladder.network.smoke_test import try_task
from bitladder.params import Params
from bitladder.paths import TASK, TASK_FILES
from bitladder.running.determinism import seed_all
from bitladder.running.files import hash_path, read_json, write_json
from bitladder.running.imports import module_closure
from bitladder.tasks.onnx_model import check_hashed
from bitladder.tasks.splits import make_splits, save_samples
from bitladder.tasks.task import load_task

__all__ = ["main"]


def main(params: Params) -> None:
    """Write build/data and build/task.json."""
    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    splits = make_splits(task, params.seed, params.compute.loader_workers)
    check_hashed(try_task(task, splits), params.task)
    for name, split in splits.items():
        save_samples(name, split)
    for path in TASK_FILES.glob("*.json"):
        if path.stem not in params.task.files:
            path.unlink()  # of a key that params.yaml has no longer: DVC would leave it
    made_of = {name: read_json(TASK_FILES / f"{name}.json") for name in params.task.files}
    own = module_closure(params.task.factory.partition(":")[0])  # where the task is one of bitladder's
    code = {name: hash_path(path) for name, path in sorted(own.items())}
    write_json(TASK, params.task.model_dump(mode="json") | {"files": made_of, "code": code}, exact=True)

"""data: the task tried on two samples, and its samples in the splits that the other stages read."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.network.model import save_split
    from bitladder.network.smoke_test import try_task
    from bitladder.running.determinism import seed_all
    from bitladder.tasks.onnx_model import check_hashed
    from bitladder.tasks.task import load_task, make_splits

    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    splits = make_splits(task, params.seed)
    check_hashed(try_task(task, splits), params.task)
    for name, split in splits.items():
        save_split(Path(f"build/data/{name}.safetensors"), split)


if __name__ == "__main__":
    run(main, torch=True)

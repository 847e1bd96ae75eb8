"""data: the task's samples, in the splits that the other stages read."""

from pathlib import Path

from bitladder.params import Params
from bitladder.stage import run


def main(params: Params) -> None:
    from bitladder.model import save_split
    from bitladder.tasks.task import load_task, make_splits

    task = load_task(params.task.factory, params.task.args)
    for name, split in make_splits(task, params.seed).items():
        save_split(Path(f"build/data/{name}.safetensors"), split)


if __name__ == "__main__":
    run(main)

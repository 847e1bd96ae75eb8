"""train: FP32 weights from scratch, or those the task's model came with where train.epochs is 0."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.network.model import build_network, load_split
    from bitladder.network.training import Recipe, fit
    from bitladder.running.determinism import seed_all
    from bitladder.running.files import save_tensors, write_csv
    from bitladder.running.resume import fingerprint, workspace
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    data = Path("build/data/train.safetensors")
    model = build_network(task)
    recipe = Recipe(**params.train.model_dump(), seed=params.seed)
    with workspace(
        "train", fingerprint(params.task, recipe, params.compute, files=(data, Path("build/task.json")))
    ) as folder:
        history = fit(model, task, load_split(data), recipe, folder)
    save_tensors(Path("build/train/weights.safetensors"), model.state_dict())
    write_csv(Path("metrics/train.csv"), ["epoch", "train_loss"], map(vars, history))


if __name__ == "__main__":
    run(main, torch=True)

"""task: what the task is made of. With a key of task.files: that file's or folder's hash; without one: all of them."""

from pathlib import Path

from bitladder.params import Params
from bitladder.stage import run

FOLDER = Path("build/task")


def main(params: Params, key: str | None = None) -> None:
    from bitladder.files import hash_path, read_json, write_json

    files = params.task.files
    if key:
        write_json(FOLDER / f"{key}.json", {"path": files[key], "sha256": hash_path(Path(files[key]))})
    else:
        write_json(Path("build/task.json"), {name: read_json(FOLDER / f"{name}.json") for name in files})


if __name__ == "__main__":
    run(main)

"""task: what the task is made of, for the stages below to depend on.

With a key of task.files: that file's or folder's hash. Without one: all of them, the factory and its arguments.
"""

from pathlib import Path

from bitladder.running.stage import Params, run

FOLDER = Path("build/task")


def main(params: Params, key: str | None = None) -> None:
    from bitladder.running.files import hash_path, read_json, write_json

    files = params.task.files
    if key:
        write_json(FOLDER / f"{key}.json", {"path": files[key], "sha256": hash_path(Path(files[key]))})
    else:
        made_of = {name: read_json(FOLDER / f"{name}.json") for name in files}
        write_json(Path("build/task.json"), params.task.model_dump(mode="json") | {"files": made_of}, exact=True)


if __name__ == "__main__":
    run(main)

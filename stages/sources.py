"""sources: each stage's script, and what it comes to import: an edit reruns the stages that it matters to."""

from pathlib import Path

from bitladder.running import forkclient
from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.running.files import hash_path, write_json
    from bitladder.running.imports import import_closure

    for script in sorted(Path("stages").glob("*.py")):
        code = {path: hash_path(Path(path)) for path in sorted(import_closure(script, Path()))}
        write_json(Path("build/sources") / f"{script.stem}.json", code)


if __name__ == "__main__":
    forkclient.start()  # most stages run anew where the code is new: torch loads while DVC goes on to them
    run(main)

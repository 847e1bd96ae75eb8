"""sources: what each stage comes to import of the installed package, and what it knows of this pipeline's SoCs.

A stage depends on its own list, so an edit or an upgrade of bitladder reruns the stages that it matters to.
"""

from pathlib import Path

from bitladder.params import Params
from bitladder.paths import ARCH, INSTALLED, PACKAGE, SOCS, SOURCES, STAGES
from bitladder.running import forkclient
from bitladder.running.files import hash_path, write_json
from bitladder.running.imports import import_closure, module_closure

__all__ = ["main"]


def main(params: Params) -> None:
    """Write build/sources and build/soc, and link the installed package to build/installed."""
    forkclient.start()  # most stages run anew where the code is new: torch loads while DVC goes on to them
    own_task = module_closure(params.task.factory.partition(":")[0])  # one of bitladder's own, such as image_folder
    for script in sorted(STAGES.glob("*.py")):
        found = import_closure(script) | (own_task if script.stem == "data" else {})
        write_json(SOURCES / f"{script.stem}.json", {name: hash_path(path) for name, path in sorted(found.items())})
    write_json(ARCH, {"arch": params.soc.arch})
    write_json(SOCS, {soc.name: soc.facts() for soc in (params.soc, *params.other_socs)})
    _link(PACKAGE, INSTALLED)


def _link(target: Path, link: Path) -> None:
    """Point a link at a folder. One that is there may point at another environment's."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target, target_is_directory=True)

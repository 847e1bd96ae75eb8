"""What many tests share. Bits are pinned as in the stages, before torch comes in."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from ruamel.yaml import YAML
from xdist.scheduler import LoadScopeScheduling

from bitladder.running import determinism
from support import DELETED, ROOT, Trained

# One thread: two processes of tests share two cores; with two threads each, much of the CPU went into waiting
determinism.pin(1)

# Few and the same inputs in a usual run; benchmarks/fuzz.py asks for 10,000 of each
settings.register_profile("usual", max_examples=50, derandomize=True)
settings.register_profile("many", max_examples=10_000, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first."""
    items.sort(key=lambda item: item.path.parent.name != "pipeline")


class ByFile(LoadScopeScheduling):
    """Gives each process whole files; those that share a clone go to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "clone" if file.endswith(("pipeline/test_pipeline.py", "pipeline/test_ship.py")) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def default_params() -> dict[str, Any]:
    return YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))


@pytest.fixture
def params_with(default_params: dict[str, Any], tmp_path: Path):
    """Give a function that writes the project's params.yaml with keys changed, such as {"ladder.tiny.weights": 5}."""

    def write(changes: dict[str, Any]) -> Path:
        values = copy.deepcopy(default_params)
        for key, value in changes.items():
            *parents, last = key.split(".")
            block = values
            for parent in parents:
                block = block[parent]
            if value is DELETED:
                del block[last]
            else:
                block[last] = value
        path, code = tmp_path / "params.yaml", tmp_path / "src"
        with path.open("w", encoding="utf-8") as file:
            YAML().dump(values, file)
        if not code.exists():
            code.symlink_to(ROOT / "src")  # the task's files are looked for beside params.yaml
        return path

    return write


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    import torch

    from bitladder.network.model import sample_inputs
    from bitladder.network.training import Recipe, fit
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.tasks.builtin.mnist import task as make_task
    from bitladder.tasks.splits import make_splits

    task = make_task(train=1500, calibration=200, evaluation=200)
    splits = make_splits(task, 0)
    torch.manual_seed(0)
    model = task.model()
    fit(model, task, splits["train"], Recipe(6, 64, 1e-2, 1e-2, 0), tmp_path_factory.mktemp("train"))
    model.eval()
    sample = sample_inputs(splits["evaluation"])
    prepared, _ = prepare(copy.deepcopy(model), sample)
    return Trained(task, splits, model, prepared, sample)


@pytest.fixture
def python():
    """Give a function that runs Python code in a new process, with this clone's src first."""

    def run(code: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **kwargs)

    return run

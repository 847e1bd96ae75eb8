"""Kill -9 at random moments of each stage, and see whether `dvc repro` then ends with the bytes of an undisturbed run.

    python benchmarks/kills.py --kills 4 --seed 0

Runs a small pipeline (one rung, real AIMET, backend and MLflow) twice in temporary clones with empty caches: once left
alone, once with each stage killed at `--kills` moments drawn over its own run and DVC's commit of it. Half of the kills
take DVC and all of its processes, as a power cut would; half take the stage's script alone. Where DVC was killed as it
wrote dvc.lock, and refuses what it left, `bitladder heal` is run, as docs/guides/bad-days.md says, and counted. Prints
a row a kill, and exits with 1 if an output differs or MLflow shows a half run as finished or a run twice.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from clones import Clone, make_clone  # noqa: E402

STAGES = ("train", "ptq@tiny", "qat@tiny", "export@tiny", "profile@tiny", "bundle", "track")

ONE_RUNG = {
    "compute.threads": 1,
    "ladder": {"tiny": {"weights": 4, "activations": 8, "after": "fp16"}},
    "qat.epochs": 2,
    "bundle.samples": 10,
}

COMMIT_S = 1.5  # DVC's own work after a stage, in which it is killed too


def main() -> int:
    """Run both pipelines and compare."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--kills", type=int, default=4, help="of each stage")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument(
        "--set", default="{}", help="YAML of keys of params.yaml to set, such as {ptq.techniques: [adaround]}"
    )
    given = words.parse_args()
    chance = random.Random(given.seed)  # noqa: S311
    folder = Path(tempfile.mkdtemp(prefix="ship-kills-"))
    changes = {**ONE_RUNG, **YAML(typ="safe").load(given.set)}
    try:
        alone, disturbed = (_clone(folder / name, changes) for name in ("alone", "disturbed"))
        start = time.monotonic()
        done = alone.repro()
        assert done.code == 0, done.text[-3000:]
        print(f"undisturbed: {time.monotonic() - start:.0f} s")
        durations = {stage: _seconds(alone, stage) for stage in STAGES}
        count = sum(_kill(disturbed, stage, durations[stage], given.kills, chance) for stage in STAGES)
        last = disturbed.repro()
        again = disturbed.repro()
        problems = _differences(alone, disturbed) + _mlflow_problems(disturbed)
        if last.code or again.ran:
            problems.append(f"the last dvc repro: exit code {last.code}; the one after it ran {sorted(again.ran)}")
        outputs = len(_outputs(alone))
        print(f"{count} kills; {outputs} outputs compared; {len(problems)} problems")
        print(*problems, sep="\n")
        return int(bool(problems))
    finally:
        shutil.rmtree(folder)


def _clone(root: Path, changes: dict) -> Clone:
    root.mkdir()
    clone = make_clone(root)
    clone.edit(changes)
    return clone


def _seconds(clone: Clone, stage: str) -> float:
    import json

    return float(json.loads((clone.root / f"build/timings/{stage}.json").read_text())["seconds"])


def _kill(clone: Clone, stage: str, seconds: float, kills: int, chance: random.Random) -> int:
    """Kill a stage at random moments, then let it end; give how many kills met it alive."""
    met, ended = 0, False
    for number in range(kills):
        delay, whole = chance.uniform(0, seconds + COMMIT_S), number % 2 == 0
        state = _run_and_kill(clone, [*(("-f", "-s") if ended else ()), stage], delay, whole)
        ended = ended or state != "killed"
        met += state == "killed"
        if "dvc.lock: damaged" in clone.run("bitladder", "check").stderr:
            healed = clone.run("bitladder", "heal").stdout.strip()
            state = f"{state} as DVC wrote dvc.lock; bitladder heal: {healed}"
        print(
            f"{stage:14} {delay:6.1f} s of {seconds:5.1f} s  {'dvc and all' if whole else 'the stage'}: {state}",
            flush=True,
        )
    done = clone.repro(stage)
    assert done.code == 0, f"{stage}: does not go on after the kills:\n{done.text[-3000:]}"
    return met


def _run_and_kill(clone: Clone, words: list[str], delay: float, whole: bool) -> str:
    """Run `dvc repro` with these words, of which the last is the stage, which is what is killed."""
    stage = words[-1]
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone.root / "src"),
    }  # fmt: skip
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (clone.root / "kills.log").open("w+b") as log:
        process = subprocess.Popen(
            ["dvc", "repro", *words], cwd=clone.root, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        while f"Running stage '{stage}'" not in (clone.root / "kills.log").read_text("utf-8", "replace"):
            if process.poll() is not None:
                return f"did not start: nothing was left to run (exit code {process.returncode})"
            time.sleep(0.02)
        time.sleep(delay)
        if process.poll() is not None:
            return "had ended"
        if whole:
            os.killpg(process.pid, signal.SIGKILL)
        elif scripts := _scripts(process.pid, stage):
            for script in scripts:
                os.kill(script, signal.SIGKILL)
        else:
            process.wait()
            return "had ended"
        process.wait()
        return "killed"


def _scripts(group: int, stage: str) -> list[int]:
    """Find the stage's Python process among those that we started: by session, and its script's name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
        except (OSError, ValueError, IndexError):
            continue
        script = f"stages/{stage.partition('@')[0]}.py".encode()
        if session == group and len(words) > 1 and words[1] == script:
            found.append(int(entry.name))
    return found


def _outputs(clone: Clone) -> dict[str, str]:
    stages = YAML(typ="safe").load((clone.root / "dvc.lock").read_text())["stages"]
    return {
        out["path"]: out["md5"]
        for name, stage in stages.items()
        if not name.endswith(("@balanced", "@compact"))
        for out in stage.get("outs", [])
    }


def _differences(alone: Clone, disturbed: Clone) -> list[str]:
    first, second = _outputs(alone), _outputs(disturbed)
    return [f"{path}: differs" for path in sorted({*first, *second}) if first.get(path) != second.get(path)]


def _mlflow_problems(clone: Clone) -> list[str]:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone.root}/mlflow.db")
    experiment = client.get_experiment_by_name("bitladder")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    finished = [run for run in parents if run.info.status == "FINISHED"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in {one.info.run_id for one in finished}]
    names = [run.data.params.get("rung") for run in children]
    print(f"MLflow: {len(parents)} parents, {len(finished)} finished, children {sorted(map(str, names))}")
    problems = [f"MLflow: a run is left {run.info.status}" for run in runs if run.info.status != "FINISHED"]
    if len(finished) != 1 or sorted(map(str, names)) != ["fp16", "fp32", "tiny"] or len(runs) != 4:
        problems.append(f"MLflow: {len(runs)} runs, where 1 with 3 children was due")
    return problems


if __name__ == "__main__":
    sys.exit(main())

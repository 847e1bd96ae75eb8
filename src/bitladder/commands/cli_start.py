"""Commands that start a pipeline: `init`, `check`, `samples`, `upgrade`."""

from pathlib import Path
from typing import Annotated

import typer

from bitladder.commands.options import PARAMS, ParamsFile

__all__ = ["check", "init", "samples", "upgrade"]


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; it may be a git repository already.")],
    example: Annotated[
        Path | None,
        typer.Option("--from", metavar="EXAMPLE", help="Take task.py and the keys of params.yaml from this folder."),
    ] = None,
) -> None:
    """Write a pipeline that is ready to run into DIR, with a commented task file to put your model into.

    Writes `dvc.yaml`, `params.yaml`, `stages/` and `task.py`. Makes DIR a git and DVC repository where it is none, and
    adds lines to `.gitignore` and `.dvcignore`. No other file that is there is changed: where one of these names is
    taken, nothing is written.

    With `--from` it starts from an example, such as those in `examples/`: a folder with a `task.py`, and a
    `params.yaml` of only the keys that the example sets.

    **Examples**

        bitladder init ../my-model
        cd ../my-model               # edit task.py
        bitladder check --task
        dvc repro

        bitladder init ../pitch --from examples/pitch
    """
    from bitladder.commands.init import init as write

    written = write(folder, example)
    typer.echo(f"{folder}: wrote {', '.join(name for name in written if '/' not in name)} and stages/")
    edit = "edit task.py" if example is None else f"do what {example / 'README.md'} says"
    typer.echo(f"Next: `cd {folder}`, {edit}, then `bitladder check --task` and `dvc repro`")


def check(
    params: ParamsFile = PARAMS,
    task: Annotated[bool, typer.Option("--task", help="Also try the task: through AIMET, ONNX and the NPU.")] = False,
) -> None:
    """Validate params.yaml, in a second: every key and value, and whether the SoC takes each rung's precision.

    Reads `params.yaml` and `dvc.lock`, and writes nothing. Prints the SoC, the target and the rungs. The first thing
    that is wrong is named by its key.

    With `--task` it builds your network, tries loss and metric on a few samples and prepares the network for AIMET.
    Then it takes FP16, the W16A16 check and every rung through what `dvc repro` does, with the same limits: quantized,
    exported, compiled for the SoC and run once there. It says what it reached after each step. What `dvc repro` would
    refuse is a line `refused`, with the layer's name where it is known; a rung of the ladder that would be refused
    makes the exit code 1, FP16 does not.

    **Examples**

        bitladder check
        bitladder check --task
    """
    from bitladder.commands.heal import check_lock
    from bitladder.running.version import load_own_params
    from bitladder.targets.record import lacking
    from bitladder.tasks.source import check_factory, check_files

    loaded = load_own_params(params)
    check_factory(loaded.task.factory, params.parent)
    check_files(loaded.task.files, params.parent)
    check_lock()
    rungs = ", ".join(f"{name} {loaded.ladder[name].precision}" for name in loaded.rungs())
    typer.echo(f"{params}: good. {loaded.target.soc} on {loaded.target.backend}; rungs: {rungs}")
    for soc in loaded.other_socs:
        lacks = [f"{name} ({kind})" for name in ("fp16", *loaded.ladder) if (kind := lacking(loaded, name, soc))]
        typer.echo(f"{soc.name} too" + (f", but for what it does not take: {', '.join(lacks)}" if lacks else ""))
    if task:
        from bitladder.commands.check_task import check_task

        for line in check_task(loaded):
            typer.echo(line)


def samples(
    params: ParamsFile = PARAMS,
    drop: Annotated[float, typer.Option(metavar="DROP", help="What the metric loses in truth, in its own unit.")] = 0.0,
    disagree: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of samples that disagree with FP32, 0 to 1.", min=0.0, max=1.0),
    ] = None,
) -> None:
    """Say how many samples a goal needs: as many as tell the drop of each rung from it.

    Reads `params.yaml` and, where a run has left them, `metrics/`; runs nothing. What counts is the share of samples
    on which a rung and FP32 are not equally right: as was measured, as you say, or else a guess by precision. Samples
    on which both are right, or both wrong, tell nothing of the drop.

    **Examples**

        bitladder samples
        bitladder samples --disagree 0.01 --drop 0.002
    """
    from bitladder.commands.samples import plan, samples_table
    from bitladder.running.version import load_own_params

    loaded = load_own_params(params)
    limit, needs = plan(loaded, drop, disagree)
    for line in samples_table(loaded, limit, needs, drop):
        typer.echo(line)


def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Bring the pipeline in this folder to the installed version of bitladder, and show the diff.

    Changes `dvc.yaml`, `params.yaml` and `stages/`, by merging what this version changes into what you changed: your
    values and comments stay, new keys come with their comments, renamed keys are translated. `task.py` is yours. Takes
    stages that are no more out of `dvc.lock`. Where a change of yours cannot be merged, it is named, and nothing is
    written. Afterwards `dvc repro` reruns the stages that the new version's changes touch.

    **Example**

        bitladder upgrade            # after another version was installed
        git diff                     # review, then: dvc repro
    """
    from bitladder.commands.upgrade import plan_upgrade
    from bitladder.running.version import RELEASE

    plan = plan_upgrade()
    if plan is None:
        typer.echo(f"the pipeline is of version {RELEASE}, as installed; nothing to do")
        return
    typer.echo(plan.diff())
    if not dry_run:
        plan.write()
    done = "would be" if dry_run else "is now"
    typer.echo(f"The pipeline was of version {plan.before}, and {done} of {RELEASE}. Next: `dvc repro`")

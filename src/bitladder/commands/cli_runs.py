"""Commands around `dvc repro`: `sweep`, `push`, `heal`."""

from typing import Annotated

import typer

__all__ = ["heal", "push", "sweep"]


def sweep(
    values: Annotated[list[str], typer.Argument(metavar="KEY=VALUE,VALUE...", help="Keys of params.yaml to try.")],
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Experiments at a time.")] = 1,
) -> None:
    """Run the pipeline for every combination of values, as DVC experiments, and print what came out.

    Each experiment runs in a temporary copy of the commit, so the work tree stays as it is; where `compute.cluster`
    names machines, it runs on one of them. The table has the smallest first; those in which no rung meets the goals
    come last.

    **Examples**

        bitladder sweep ladder.tiny.weights=4,8
        bitladder sweep ladder.tiny.activations=8,16 qat.when=never,always --jobs 2
        dvc exp apply NAME           # takes one into the work tree
    """
    from bitladder.commands.sweep import format_outcomes
    from bitladder.commands.sweep import sweep as run_all

    outcomes = run_all(values, jobs)
    typer.echo(format_outcomes(outcomes, values))
    typer.echo("\n`dvc exp apply NAME` takes one into the work tree; `bitladder diff HEAD NAME` compares.")


def push(
    remote: Annotated[
        str | None, typer.Option(metavar="NAME", help="A DVC remote; the default one if left out.")
    ] = None,
) -> None:
    """Send the results of all runs to the DVC remote; elsewhere `dvc repro --pull` takes them from there.

    There, `dvc repro sources` goes first: with `--pull` alone DVC does not look at the code that is installed.

    It sends what `dvc push --run-cache` sends, and what that leaves out: metrics of runs that were not committed.
    Reads DVC's cache, and prints how many objects were sent.

    **Examples**

        dvc remote add --default store /mnt/shared/bitladder
        bitladder push
    """
    from bitladder.commands.push import push as send

    typer.echo(f"{send(remote)} objects sent")


def heal(
    lock: Annotated[
        bool, typer.Option("--lock", help="Only dvc.lock, and without a word where it is whole: before a `dvc repro`.")
    ] = False,
) -> None:
    """Find and remove damaged results, so that `dvc repro` makes them again.

    A damaged `dvc.lock` is put back as it was when the last stage began. Then outputs and their objects in DVC's cache
    are held against `dvc.lock`: each that differs is named and removed. Metrics and gates are left to git.

    **Examples**

        bitladder heal
        dvc repro
    """
    from bitladder.commands.heal import heal as remove_damaged
    from bitladder.commands.heal import heal_lock

    found = heal_lock() if lock else remove_damaged()
    for line in found:
        typer.echo(line)
    if not lock:
        typer.echo("Next: `dvc repro`" if found else "nothing is damaged")

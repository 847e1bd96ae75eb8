"""Commands for what ships: `ship`, `verify`, `reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from bitladder.commands.options import PARAMS
from bitladder.errors import UserError

__all__ = ["reproduce", "ship", "verify"]


def ship(
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The .tar to write; RUNG-REVISION.tar if left out.")
    ] = None,
) -> None:
    """Pack deploy/ into one archive, together with the commit that it came from.

    Reads `deploy/`, `dvc.lock` and git. Writes a .tar of `deploy/` and `provenance.json`; the same commit gives the
    same bytes. It refuses where the work tree is not the commit's, since nothing could be reproduced from that.

    **Examples**

        bitladder ship
        bitladder ship --output release.tar
    """
    from bitladder.bundle.ship import ship as pack

    typer.echo(f"{pack(Path('deploy'), output)}: written; `bitladder verify` takes it as it is")


def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="The folder deploy/, or the archive that `ship` wrote.")
    ],
    params: Annotated[
        Path, typer.Option("--params", metavar="FILE", help="Your own params.yaml, whose task has the metric.")
    ] = PARAMS,
    limit_s: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="Time that an inference, or reading a graph, may take."),
    ] = 60.0,
) -> None:
    """Check that a bundle is as it was shipped: every byte, then its outputs on the emulator.

    The recorded samples are run on the emulated NPU for each SoC, and the outputs and their metric compared with what
    is recorded. The metric comes from the task that your own `params.yaml` names, where it is the bundle's task.
    What is trusted: no code of the bundle is executed, and nothing is written. But its ONNX files and context binaries
    are read by native code, ONNX's own and Qualcomm's backend, in processes of their own that have a time limit and no
    sandbox. A file that was made to attack these could run code as you: verify a stranger's bundle in a container.

    The exit code is 1 where anything is not as it was shipped; each such thing has a line that begins with `BAD:`.

    **Examples**

        bitladder verify deploy
        bitladder verify tiny-0123456789.tar
    """
    from bitladder.params import load_params
    from bitladder.running import determinism

    own = load_params(params) if params.is_file() else None
    determinism.pin(own.compute.threads if own else 1)
    from bitladder.bundle.verify import opened
    from bitladder.bundle.verify import verify as check_bundle

    with opened(bundle) as folder:
        good, bad = check_bundle(folder, own, limit_s)
    for line in (*(f"good: {line}" for line in good), *(f"BAD:  {line}" for line in bad)):
        # Names and texts of a stranger's bundle must not steer the terminal
        typer.echo("".join(character if character.isprintable() else "?" for character in line))
    if bad:
        raise UserError(f"{bundle}: not as it was shipped ({len(bad)} found)")


def reproduce(
    revision: Annotated[str, typer.Argument(metavar="REV", help="A git revision: a branch, a tag, a commit.")],
    quick: Annotated[bool, typer.Option("--quick", help="Take data and FP32 weights from the cache.")] = False,
    any_environment: Annotated[
        bool, typer.Option("--any-environment", help="Run even where other versions are installed than were recorded.")
    ] = False,
) -> None:
    """Run a revision's pipeline again from nothing, and compare every output with its dvc.lock, bit for bit.

    It works in a temporary clone with an empty cache; your work tree and cache stay as they are. First it compares the
    installed versions with the revision's `requirements.lock`, where there is one, and stops where they differ.

    The exit code is 0 where all outputs are identical. It is 1 where they are not: then it says which files differ,
    from which stage on, and by how much.

    **Examples**

        bitladder reproduce HEAD
        bitladder reproduce v1.2 --quick
    """
    from bitladder.commands.reproduce import reproduce as run_again

    if not run_again(revision, quick, any_environment, typer.echo):
        raise UserError(f"{revision}: not reproduced; what differs is said above")

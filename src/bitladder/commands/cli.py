"""The command line: `bitladder ...`.

The commands are functions in the `cli_*` modules; what stands in their docstrings is the help, in Markdown. Imports
stay inside the functions, so that help and checks start at once.
"""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from bitladder.commands.cli_lint import lint
from bitladder.commands.cli_npu import gap, latency, ops, preflight, socs
from bitladder.commands.cli_results import diff, report, show, timings, track
from bitladder.commands.cli_runs import heal, push, sweep
from bitladder.commands.cli_ship import reproduce, ship, verify
from bitladder.commands.cli_start import check, init, samples, upgrade
from bitladder.errors import UserError
from bitladder.running.explain import explain, keep_text

__all__ = ["app"]

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start": (init, check, samples, upgrade),
    "Read results": (show, report, diff, track, timings),
    "Look into the NPU": (lint, gap, ops, latency, preflight, socs),
    "Run and share": (sweep, push, heal),
    "Ship and reproduce": (ship, verify, reproduce),
}
"""Every command, under the heading that `bitladder --help` shows it under."""

EXIT_CODES = (
    "Exit code: 0 where all went well; 1 where not, and one line on stderr says what to do; 2 where the command line is"
    " wrong."
)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


def print_version(asked: bool) -> None:
    """Print the installed version, and end."""
    if asked:
        from bitladder.running.version import RELEASE

        typer.echo(f"bitladder {RELEASE}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Walk a network down the precision ladder of a Qualcomm NPU, and decide which precision to ship.

    The pipeline itself runs by `dvc repro`, in the folder that holds `dvc.yaml` and `params.yaml`. These commands start
    such a folder, read its results and ship them. `bitladder COMMAND --help` says more of each.
    """


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn any error into one line and exit code 1; of one that is no UserError, the full text is kept."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"bitladder: {error}", err=True)
            raise typer.Exit(1) from None
        except (typer.Exit, typer.BadParameter, BrokenPipeError):
            raise  # the command line's own
        except Exception as error:
            text = f"{explain(error)}{keep_text(error, command.__name__)}"
            typer.echo(f"bitladder: {text}", err=True)
            raise typer.Exit(1) from None

    return wrapped


for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=EXIT_CODES)(one_line_errors(command))

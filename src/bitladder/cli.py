"""The command line: `bitladder ...`. Imports stay inside the commands, so that help and checks start at once."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from bitladder.errors import UserError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Walk a PyTorch model down the precision ladder of a Qualcomm NPU. The pipeline itself runs by `dvc repro`.",
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The params.yaml to read.")]


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a UserError into one line and exit code 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"bitladder: {error}", err=True)
            raise typer.Exit(1) from None

    return wrapped


@app.command()
@one_line_errors
def check(
    params: ParamsFile = Path("params.yaml"),
    task: Annotated[bool, typer.Option("--task", help="Also try the task: through AIMET, ONNX and the NPU.")] = False,
) -> None:
    """Validate params.yaml: every key, value and rung, and what the SoC takes."""
    from bitladder.params import load_params
    from bitladder.version import check_version

    loaded = load_params(params)
    check_version(loaded)
    rungs = ", ".join(f"{name} {loaded.ladder[name].precision}" for name in loaded.rungs())
    typer.echo(f"{params}: good. {loaded.target.soc} on {loaded.target.backend}; rungs: {rungs}")
    if task:
        from bitladder.rehearsal import rehearse

        for line in rehearse(loaded):
            typer.echo(line)


@app.command()
@one_line_errors
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; it may be a repository already.")]) -> None:
    """Write a ready pipeline with a commented task file into DIR; nothing that is there is overwritten."""
    from bitladder.scaffold import init as write

    written = write(folder)
    typer.echo(f"{folder}: wrote {', '.join(name for name in written if '/' not in name)} and stages/")
    typer.echo("Next: edit task.py, then `bitladder check --task` and `dvc repro` there")


@app.command()
@one_line_errors
def show(
    params: ParamsFile = Path("params.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="The decision as JSON.")] = False,
) -> None:
    """Print the comparison, the decision and its reasons, from the metrics files."""
    from bitladder.files import read_json
    from bitladder.params import load_params
    from bitladder.report.results import METRICS, read_results
    from bitladder.report.tables import comparison_rows, format_table

    results = read_results(load_params(params))
    decision = read_json(METRICS / "decision.json")
    if as_json:
        typer.echo(json.dumps(decision, indent=2))
        return
    typer.echo(format_table(comparison_rows(results.evals, results.targets, decision["chosen"])))
    typer.echo(f"\nDecision: {decision['reason']}.")
    for entry in decision["trail"]:
        typer.echo(f"  {entry['rung']} ({entry['precision']}): {entry['then']}")


@app.command()
@one_line_errors
def track(params: ParamsFile = Path("params.yaml")) -> None:
    """Send the metrics to MLflow (MLFLOW_TRACKING_URI, or a local sqlite file); nothing is logged twice."""
    from bitladder.params import load_params
    from bitladder.tracking import track as send

    typer.echo(send(load_params(params)))


@app.command()
@one_line_errors
def timings() -> None:
    """Print how long each stage took when it last ran here."""
    from bitladder.files import read_json
    from bitladder.stage import TIMINGS

    found = sorted(TIMINGS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{TIMINGS}: no stage has run here; run `dvc repro`")
    seconds = {path.stem: read_json(path)["seconds"] for path in found}
    for stage, spent in seconds.items():
        typer.echo(f"{spent:8.1f} s  {stage}")
    typer.echo(f"{sum(seconds.values()):8.1f} s  in all")

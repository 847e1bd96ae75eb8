"""Commands that read the results of a run: `show`, `report`, `diff`, `track`, `timings`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bitladder.commands.options import PARAMS, ParamsFile
from bitladder.errors import UserError
from bitladder.paths import PAGE

__all__ = ["diff", "report", "show", "timings", "track"]


class DiffForm(StrEnum):
    """How a diff is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"


def show(
    params: ParamsFile = PARAMS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print metrics/decision.json, the decision, instead.")
    ] = False,
) -> None:
    """Print the comparison of all rungs, the decision, and why each other rung was not chosen.

    Reads `params.yaml` and `metrics/`, runs nothing and writes nothing. With `target.socs` a second table has a row
    for each rung and SoC; where a device ran what was compiled here (ssh, adb), a table has device, emulator and
    simulation side by side. Where no rung meets the goals, it says what came nearest and what to try next.

    **Examples**

        bitladder show
        bitladder show --json
    """
    from bitladder.decision.results import read_results
    from bitladder.paths import DECISION
    from bitladder.records import Decision, read_record
    from bitladder.report.sides import format_sides
    from bitladder.report.tables import (
        block_notes,
        comparison_rows,
        format_soc_table,
        format_table,
        interval_note,
        soc_rows,
    )
    from bitladder.running.version import load_own_params

    results = read_results(load_own_params(params))
    decision = read_record(Decision, DECISION)
    if as_json:
        typer.echo(json.dumps(decision.content(), indent=2))
        return
    typer.echo(format_table(comparison_rows(results.evals, results.targets, results.exports, decision)))
    if any(results.socs.values()):
        typer.echo("\n" + format_soc_table(soc_rows(results.evals, results.targets, results.socs, decision)))
    if sides := format_sides(results.targets, next(iter(results.evals.values())).metric):
        typer.echo(f"\n{sides}")
    typer.echo(f"\n{interval_note(decision)}")
    for note in block_notes(results.exports):
        typer.echo(f"Block weights of {note}.")
    typer.echo(f"\nDecision: {decision.reason}.")
    for entry in decision.trail:
        typer.echo(f"  {entry.rung} ({entry.precision}): {entry.outcome}")
        for sentence in entry.undecided:
            typer.echo(f"    undecided: {sentence}")
    for step in decision.next:
        typer.echo(f"Next: {step}.")


def report(
    params: ParamsFile = PARAMS,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The HTML file to write.")] = PAGE,
) -> None:
    """Write the decision, the figures and the plots as one HTML page.

    Reads `params.yaml`, `metrics/` and, for the plots of each layer, `build/export/`. Writes one file that works
    offline, on a phone and in dark mode.

    **Example**

        bitladder report --output /tmp/report.html
    """
    from bitladder.report.page import render
    from bitladder.running.files import write_text
    from bitladder.running.version import load_own_params

    write_text(output, render(load_own_params(params)))
    typer.echo(f"{output}: written")


def diff(
    before: Annotated[str, typer.Argument(metavar="REV1", help="A git revision: a branch, a tag, a commit.")],
    after: Annotated[str | None, typer.Argument(metavar="REV2", help="Another; the work tree if left out.")] = None,
    form: Annotated[DiffForm, typer.Option("--format", help="How to write it.")] = DiffForm.TEXT,
    check_goals: Annotated[
        bool, typer.Option("--check", help="Exit with 1 where goals that held at REV1 no longer hold.")
    ] = False,
) -> None:
    """Say what changed between two revisions: decision, params, figures, bits and scales by layer, file sizes.

    Reads git's history, and what DVC's cache has of both revisions; what is not in the cache is named as not compared
    (`dvc fetch` brings it). Prints to stdout and writes nothing.

    With `--check` the exit code is 1 where the rung that was chosen at REV1 no longer meets the goals, or no rung does.

    **Examples**

        bitladder diff main
        bitladder diff v1.2 HEAD --format html > diff.html
        bitladder diff origin/main --check      # in CI
    """
    from bitladder.report.diff import diff as compare
    from bitladder.report.diff import format_diff, lost
    from bitladder.report.revisions import read_revision

    old, new = read_revision(before), read_revision(after)
    typer.echo(format_diff(compare(old, new), form.value))
    if check_goals and (missed := lost(old, new)):
        raise UserError(missed)


def track(params: ParamsFile = PARAMS) -> None:
    """Log the metrics to MLflow: a run for the commit, and a child run for each rung.

    Reads `params.yaml` and `metrics/`. Writes to the store that MLFLOW_TRACKING_URI names, or to `mlflow.db` in this
    folder. The stage `track` does the same; run this to send what it could not, because the server was away. The same
    metrics are never logged twice.

    **Examples**

        bitladder track
        mlflow ui --backend-store-uri sqlite:///mlflow.db
    """
    from bitladder.report.tracking import track as send
    from bitladder.running.version import load_own_params

    typer.echo(send(load_own_params(params)))


def timings() -> None:
    """Print how long each stage took when it last ran here, in seconds.

    Reads `build/timings/`, which no commit has: it tells of this clone alone.

    **Example**

        bitladder timings | sort --numeric-sort --reverse
    """
    from bitladder.paths import TIMINGS
    from bitladder.running.files import read_json

    found = sorted(TIMINGS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{TIMINGS}: no stage has run here; run `dvc repro`")
    seconds = {path.stem: read_json(path)["seconds"] for path in found}
    for stage, spent in seconds.items():
        typer.echo(f"{spent:8.1f} s  {stage}")
    typer.echo(f"{sum(seconds.values()):8.1f} s  in all")

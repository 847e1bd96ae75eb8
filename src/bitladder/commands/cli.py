"""The command line: `bitladder ...`. Imports stay inside the commands, so that help and checks start at once."""

import json
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from bitladder.errors import UserError
from bitladder.paths import PAGE

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Walk a PyTorch model down the precision ladder of a Qualcomm NPU. The pipeline itself runs by `dvc repro`.",
)


class DiffForm(StrEnum):
    """How a diff is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"


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
    """Validate params.yaml: every key, value and rung, and what the SoC takes; and that dvc.lock is whole."""
    from bitladder.commands.heal import check_lock
    from bitladder.params import load_params
    from bitladder.running.version import check_version

    loaded = load_params(params)
    check_version(loaded)
    check_lock()
    rungs = ", ".join(f"{name} {loaded.ladder[name].precision}" for name in loaded.rungs())
    typer.echo(f"{params}: good. {loaded.target.soc} on {loaded.target.backend}; rungs: {rungs}")
    for soc in loaded.other_socs:
        lacks = [
            f"{name} ({kind})"
            for name, kind in {
                "fp16": "FP16",
                **{name: str(rung.precision) for name, rung in loaded.ladder.items()},
            }.items()
            if kind not in soc.takes
        ]
        typer.echo(f"{soc.name} too" + (f", but for what it does not take: {', '.join(lacks)}" if lacks else ""))
    if task:
        from bitladder.commands.check_task import rehearse

        for line in rehearse(loaded):
            typer.echo(line)


@app.command()
@one_line_errors
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; it may be a repository already.")]) -> None:
    """Write a ready pipeline with a commented task file into DIR; nothing that is there is overwritten."""
    from bitladder.commands.init import init as write

    written = write(folder)
    typer.echo(f"{folder}: wrote {', '.join(name for name in written if '/' not in name)} and stages/")
    typer.echo(f"Next: `cd {folder}`, edit task.py, then `bitladder check --task` and `dvc repro`")


@app.command()
@one_line_errors
def show(
    params: ParamsFile = Path("params.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="The decision as JSON.")] = False,
) -> None:
    """Print the comparison, the decision and its reasons, from the metrics files."""
    from bitladder.decision.results import read_results
    from bitladder.params import load_params
    from bitladder.paths import DECISION
    from bitladder.records import Decision, read_record
    from bitladder.report.tables import comparison_rows, format_soc_table, format_table, soc_rows

    results = read_results(load_params(params))
    decision = read_record(Decision, DECISION)
    if as_json:
        typer.echo(json.dumps(decision.content(), indent=2))
        return
    typer.echo(format_table(comparison_rows(results.evals, results.targets, decision)))
    if any(results.socs.values()):
        typer.echo("\n" + format_soc_table(soc_rows(results.evals, results.targets, results.socs)))
    typer.echo(f"\nDecision: {decision.reason}.")
    for entry in decision.trail:
        typer.echo(f"  {entry.rung} ({entry.precision}): {entry.outcome}")
    for step in decision.next:
        typer.echo(f"Next: {step}.")


@app.command()
@one_line_errors
def report(
    params: ParamsFile = Path("params.yaml"),
    output: Annotated[Path, typer.Option(help="The HTML file to write.")] = PAGE,
) -> None:
    """Write the decision, the figures and the plots as one HTML page that works offline."""
    from bitladder.params import load_params
    from bitladder.report.page import render
    from bitladder.running.files import write_text

    write_text(output, render(load_params(params)))
    typer.echo(f"{output}: written")


@app.command()
@one_line_errors
def diff(
    before: Annotated[str, typer.Argument(metavar="REV1", help="A git revision: a branch, a tag, a commit.")],
    after: Annotated[str | None, typer.Argument(metavar="[REV2]", help="Another; the work tree if left out.")] = None,
    form: Annotated[DiffForm, typer.Option("--format", help="How to write it.")] = DiffForm.TEXT,
    check_goals: Annotated[
        bool, typer.Option("--check", help="Exit with 1 where goals that held at REV1 no longer hold.")
    ] = False,
) -> None:
    """Say what changed between two revisions: decision, params, figures, layers, files."""
    from bitladder.report.diff import diff as compare
    from bitladder.report.diff import format_diff, lost
    from bitladder.report.revisions import read_revision

    old, new = read_revision(before), read_revision(after)
    typer.echo(format_diff(compare(old, new), form.value))
    if check_goals and (missed := lost(old, new)):
        raise UserError(missed)


@app.command()
@one_line_errors
def sweep(
    values: Annotated[list[str], typer.Argument(metavar="KEY=VALUE,VALUE...", help="Keys of params.yaml to try.")],
    jobs: Annotated[int, typer.Option(min=1, help="Experiments at a time.")] = 1,
) -> None:
    """Run the pipeline for every combination of values, as DVC experiments, and print what came out."""
    from bitladder.commands.sweep import format_outcomes
    from bitladder.commands.sweep import sweep as run_all

    outcomes = run_all(values, jobs)
    typer.echo(format_outcomes(outcomes, values))
    typer.echo("\n`dvc exp apply NAME` takes one into the work tree; `bitladder diff HEAD NAME` compares.")


@app.command()
@one_line_errors
def track(params: ParamsFile = Path("params.yaml")) -> None:
    """Send the metrics to MLflow (MLFLOW_TRACKING_URI, or a local sqlite file); nothing is logged twice."""
    from bitladder.params import load_params
    from bitladder.report.tracking import track as send

    typer.echo(send(load_params(params)))


@app.command()
@one_line_errors
def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder that the bundle stage wrote, or what `ship` packed.")],
    params: Annotated[Path, typer.Option("--params", help="Your own params.yaml, whose task has the metric.")] = Path(
        "params.yaml"
    ),
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds an emulated inference may take.")] = 60.0,
) -> None:
    """Check a bundle: every byte, and the recorded answers repeated on the emulator. Nothing in it is executed."""
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


@app.command()
@one_line_errors
def ship(
    output: Annotated[Path | None, typer.Option(help="The .tar to write; RUNG-REVISION.tar if left out.")] = None,
) -> None:
    """Pack deploy/ with the commit that it came from; refuses where the work tree is not that commit's."""
    from bitladder.bundle.ship import ship as pack

    typer.echo(f"{pack(Path('deploy'), output)}: written; `bitladder verify` takes it as it is")


@app.command()
@one_line_errors
def reproduce(
    revision: Annotated[str, typer.Argument(metavar="REV", help="A git revision: a branch, a tag, a commit.")],
    quick: Annotated[bool, typer.Option("--quick", help="Take data and FP32 weights from the cache.")] = False,
    any_environment: Annotated[
        bool, typer.Option("--any-environment", help="Run with other versions than the recorded ones too.")
    ] = False,
) -> None:
    """Run a revision's pipeline from nothing in a temporary clone, and compare every output with its dvc.lock."""
    from bitladder.commands.reproduce import reproduce as run_again

    if not run_again(revision, quick, any_environment, typer.echo):
        raise UserError(f"{revision}: not reproduced; what differs is said above")


@app.command()
@one_line_errors
def heal(
    lock: Annotated[
        bool, typer.Option("--lock", help="Only dvc.lock, and without a word where it is whole: before a `dvc repro`.")
    ] = False,
) -> None:
    """Hold outputs and their cache objects against dvc.lock; what is damaged is removed, and `dvc repro` makes it."""
    from bitladder.commands.heal import heal as remove_damaged
    from bitladder.commands.heal import heal_lock

    found = heal_lock() if lock else remove_damaged()
    for line in found:
        typer.echo(line)
    if not lock:
        typer.echo("Next: `dvc repro`" if found else "nothing is damaged")


@app.command()
@one_line_errors
def push(
    remote: Annotated[str | None, typer.Option(help="Its name in DVC, where it is not the default one.")] = None,
) -> None:
    """Send the results of all runs to the DVC remote; elsewhere `dvc repro --pull` then takes them from there."""
    from bitladder.commands.push import push as send

    typer.echo(f"{send(remote)} objects sent")


@app.command()
@one_line_errors
def timings() -> None:
    """Print how long each stage took when it last ran here."""
    from bitladder.paths import TIMINGS
    from bitladder.running.files import read_json

    found = sorted(TIMINGS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{TIMINGS}: no stage has run here; run `dvc repro`")
    seconds = {path.stem: read_json(path)["seconds"] for path in found}
    for stage, spent in seconds.items():
        typer.echo(f"{spent:8.1f} s  {stage}")
    typer.echo(f"{sum(seconds.values()):8.1f} s  in all")


@app.command()
@one_line_errors
def latency(
    model: Annotated[Path | None, typer.Argument(help="An ONNX file: float, FP16 or QDQ.")] = None,
    device: Annotated[str, typer.Option(help="A device or a SoC; --fit-report lists the devices.")] = "SM8650",
    precision: Annotated[str, typer.Option(help="fp16, w8a8 or w8a16.")] = "fp16",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    report: Annotated[
        bool, typer.Option("--fit-report", help="How far off it is on published models that it has not seen.")
    ] = False,
) -> None:
    """Estimate an ONNX model's latency on a device that is not at hand, from published measurements of others."""
    from dataclasses import asdict

    from bitladder.latency.estimate import COVERAGE, estimate, fit_report
    from bitladder.report.latency import format_report

    if report == (model is not None):
        raise UserError("give one ONNX file, or --fit-report")
    if model is None:
        rows = fit_report()
        typer.echo(json.dumps(rows, indent=2) if as_json else format_report(rows))
        return
    found = estimate(model, device, precision)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "latency_source": "estimated"}, indent=2))
        return
    typer.echo(
        f"{found.latency_ms:.3f} ms estimated on {found.device} ({found.runtime}, {found.precision});"
        f" {COVERAGE:.0%} interval {found.low_ms:.3f} to {found.high_ms:.3f} ms"
    )


@app.command()
@one_line_errors
def socs(
    probe: Annotated[str | None, typer.Option(help="Ask the backend what this SoC takes, by compiling toys.")] = None,
) -> None:
    """List the SoCs, with what each takes and what else it is called."""
    from tabulate import tabulate

    from bitladder.socs import all_socs, find_soc

    if probe is None:
        rows = [
            [soc.name, soc.arch, " ".join(soc.takes), ", ".join(soc.aliases), soc.device or "-"]
            for soc in all_socs().values()
        ]
        typer.echo(tabulate(rows, ["SoC", "Hexagon", "takes", "also called", "published latencies of"], "github"))
        return
    soc = find_soc(probe)
    from bitladder.targets.probe import probe as ask

    for verdict in ask(soc):
        known = "" if verdict.takes == (verdict.precision in soc.takes) else "  (the table says otherwise)"
        found = f"yes, as {verdict.chip}" if verdict.takes else f"no: {verdict.reason}"
        typer.echo(f"{soc.name} {verdict.precision:7}{found}{known}")


@app.command()
@one_line_errors
def ops(
    rung: str,
    soc: Annotated[str | None, typer.Option(help="One of target.socs; target.soc if left out.")] = None,
) -> None:
    """Print what the backend said of a rung's ops and memory when it was profiled here.

    Emulated cycles are the host's, not the device's; bytes are those of the compiled context binary.
    """
    from bitladder.report.ops import format_ops
    from bitladder.socs import find_soc

    typer.echo(format_ops(rung, find_soc(soc).name if soc else None))


@app.command()
@one_line_errors
def gap(
    rung: str,
    params: ParamsFile = Path("params.yaml"),
    samples: Annotated[int, typer.Option(min=1, help="Samples of the evaluation split.")] = 2,
    limit_db: Annotated[float | None, typer.Option(help="SQNR under which a layer has departed.")] = None,
    on: Annotated[str | None, typer.Option("--soc", help="Another SoC than target.soc.")] = None,
) -> None:
    """Find the first layer of an exported rung at which the NPU departs from QuantSim."""
    from tempfile import TemporaryDirectory

    from bitladder.network.model import load_split
    from bitladder.params import load_params
    from bitladder.paths import RungFiles
    from bitladder.paths import samples as samples_of
    from bitladder.report.gap import format_gap
    from bitladder.socs import find_soc
    from bitladder.targets.gap import find_gap

    loaded = load_params(params)
    if rung == "fp16":
        raise UserError("FP16 has no simulation that its answers could depart from; `bitladder show` has its figures")
    if rung not in loaded.ladder:
        raise UserError(f"{params} has no rung {rung!r} under ladder; use one of {', '.join(loaded.ladder)}")
    model = RungFiles(rung).model
    if not model.is_file():
        raise UserError(f"{model}: no such file; run `dvc repro export@{rung}`")
    split = load_split(samples_of("evaluation")).first(samples)
    with TemporaryDirectory() as folder:
        soc = find_soc(on) if on else loaded.soc
        layers = find_gap(model, split, soc, loaded.target, Path(folder))
    typer.echo(format_gap(layers, soc.name, limit_db))

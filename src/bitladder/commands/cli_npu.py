"""Commands that say what a SoC and its NPU make of a graph: `gap`, `ops`, `latency`, `preflight`, `socs`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bitladder.commands.options import PARAMS, ParamsFile
from bitladder.errors import UserError

__all__ = ["gap", "latency", "ops", "preflight", "socs"]


class Where(StrEnum):
    """What stands for the NPU."""

    EMULATOR = "emulator"
    DEVICE = "device"


def gap(
    rung: Annotated[str, typer.Argument(metavar="RUNG", help="A rung of the ladder, as params.yaml names it.")],
    params: ParamsFile = PARAMS,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Samples of the evaluation split.")] = 2,
    limit_db: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="SQNR under which a layer has diverged; if left out, 20 dB below what is usual at its bits, and 10 dB"
            " below the layers that it reads.",
        ),
    ] = None,
    chip: Annotated[str | None, typer.Option("--soc", metavar="SOC", help="Another SoC than target.soc.")] = None,
    on: Annotated[Where, typer.Option("--on", help="What stands for the NPU; the device is target.backend's.")] = (
        Where.EMULATOR
    ),
) -> None:
    """Find the first layer of a rung at which the NPU diverges from the simulation (AIMET's QuantSim).

    Both get the same input, and are compared tensor by tensor. Prints the SQNR at each layer, the first layer that
    diverges, and what is known of such layers. `--on device` asks the device itself for its intermediate tensors, where
    `target.backend` is ssh, adb or snapdragon.

    Reads `params.yaml`, `build/data/` and `build/export/RUNG/model.onnx`, which `dvc repro export@RUNG` makes. Writes
    nothing. The exit code is 0 whether or not a layer diverges.

    **Examples**

        bitladder gap tiny
        bitladder gap compact --samples 8 --soc QCS6490
        bitladder gap compact --on device
    """
    from tempfile import TemporaryDirectory

    from bitladder.paths import RungFiles
    from bitladder.report.gap import format_gap
    from bitladder.running.version import load_own_params
    from bitladder.socs import find_soc
    from bitladder.targets.gap import find_gap
    from bitladder.targets.on_device import on_device
    from bitladder.tasks.splits import load_samples
    from bitladder.tasks.task import load_task

    loaded = load_own_params(params)
    if rung == "fp16":
        raise UserError("FP16 has no simulation that its outputs could diverge from; `bitladder show` has its figures")
    if rung not in loaded.ladder:
        raise UserError(f"{params} has no rung {rung!r} under ladder; use one of {', '.join(loaded.ladder)}")
    model = RungFiles(rung).model
    if not model.is_file():
        raise UserError(f"{model}: no such file; run `dvc repro export@{rung}`")
    task = load_task(loaded.task.factory, loaded.task.args)
    split = load_samples(task, loaded, "evaluation").first(samples)
    with TemporaryDirectory() as folder:
        soc = find_soc(chip) if chip else loaded.soc
        execute = on_device(soc, loaded.target) if on is Where.DEVICE else None
        layers = find_gap(model, split, soc, loaded.target, Path(folder), execute)
    typer.echo(format_gap(layers, soc, limit_db))


def ops(
    rung: Annotated[str, typer.Argument(metavar="RUNG", help="A rung of the ladder, or fp16.")],
    soc: Annotated[str | None, typer.Option(metavar="SOC", help="One of target.socs; target.soc if left out.")] = None,
) -> None:
    """Print what the backend said of a rung's ops and memory when it was profiled here.

    A row for each op: where it runs, and its share of the cycles. Then memory: spill and fill in DDR, VTCM, constants,
    inputs and outputs. Emulated cycles are the host's, not the device's; bytes are those of the context binary.

    Reads `build/notes/` and `metrics/target/`, runs nothing and writes nothing.

    **Example**

        bitladder ops tiny
    """
    from bitladder.report.ops import format_ops
    from bitladder.socs import find_soc

    typer.echo(format_ops(rung, find_soc(soc).name if soc else None))


def latency(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="An ONNX file: float, FP16 or QDQ.")] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="A device or a SoC; --fit-report lists the devices.")
    ] = "SM8650",
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="fp16, w8a8, w8a16; mixed: each op at its own bits.")
    ] = "fp16",
    on_all: Annotated[bool, typer.Option("--all", help="On every device with published latencies.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[
        bool, typer.Option("--fit-report", help="How far off it is on published networks that it has not seen.")
    ] = False,
) -> None:
    """Estimate an ONNX model's latency and peak memory on a device that is not at hand.

    The estimate is the work of each kind of op, times unit costs that were fitted to latencies that Qualcomm published,
    corrected by how far they are off published networks of like make-up. Each value comes with the interval that holds
    80 % of published networks which the fit had not seen. A SoC without published latencies takes the estimate from the
    devices of its Hexagon generation, with a wider interval. Writes nothing.

    **Examples**

        bitladder latency model.onnx --device galaxy-s24 --precision w8a8
        bitladder latency model.onnx --all --precision w8a16
        bitladder latency build/export/mixed/model.onnx --precision mixed
        bitladder latency --fit-report
    """
    from dataclasses import asdict

    from bitladder.latency.estimate import estimate, estimate_all
    from bitladder.report.latency import error_rows, format_errors, format_estimate, format_estimates

    if report == (model is not None):
        raise UserError("give one ONNX file, or --fit-report")
    if model is None:
        rows = error_rows()
        typer.echo(json.dumps(rows, indent=2) if as_json else format_errors(rows))
        return
    found = estimate_all(model, precision) if on_all else [estimate(model, device, precision)]
    if as_json:
        records = [{**asdict(of), "basis": of.basis, "latency_source": "estimated"} for of in found]
        typer.echo(json.dumps(records if on_all else records[0], indent=2))
        return
    typer.echo(format_estimates(found) if on_all else format_estimate(found[0]))


def preflight(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="The folder deploy/; if left out, the device alone.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="A device as OpenSSH takes it; this machine if left out.")
    ] = None,
    python: Annotated[str, typer.Option(metavar="PYTHON", help="That device's Python.")] = "python3",
    adb: Annotated[bool, typer.Option("--adb", help="A phone that adb sees.")] = False,
    serial: Annotated[
        str | None, typer.Option(metavar="SERIAL", help="With --adb, which one; the only one if left out.")
    ] = None,
    qairt: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="With --adb, the QAIRT SDK; the one that QAIRT_SDK_ROOT names if left out."),
    ] = None,
    soc: Annotated[
        str | None, typer.Option(metavar="SOC", help="Which of the bundle's SoCs; the first if left out.")
    ] = None,
) -> None:
    """Look for what keeps a bundle from running on a device, and say cause and remedy of each.

    Python and its packages, the DSP, the NPU, the SoC, free memory, and whether the model loads with all of its ops on
    the NPU. A line begins with `ok`, `note` (to know, and no hindrance) or `fail`. Nothing of the bundle is executed:
    what runs there is the runner that this bitladder brings. With `--adb` it is the SDK's `qnn-net-run`, and the checks
    are adb's and the SDK's, the DSP, the SoC, free memory, and one inference. The exit code is 1 where a check fails.

    On the device itself, without bitladder, `python runner.py --check` in the bundle does the same.

    **Examples**

        bitladder preflight --host user@board
        bitladder preflight --host user@board --python '~/venv/bin/python' deploy
        bitladder preflight --adb --qairt ~/qairt/2.51.0 deploy
        bitladder preflight deploy
    """
    from bitladder.bundle.preflight import look, look_by_adb
    from bitladder.targets.runner import shown

    if host and (adb or serial):
        raise UserError("give --host or --adb, not both")
    findings = look_by_adb(bundle, serial, qairt, soc) if adb or serial else look(bundle, host, python, soc)
    typer.echo("\n".join(map(shown, findings)))
    if any(one["state"] == "fail" for one in findings):
        raise typer.Exit(1)


def socs(
    probe: Annotated[
        str | None, typer.Option(metavar="SOC", help="Ask the backend what this SoC takes, by compiling toy networks.")
    ] = None,
    ops: Annotated[bool, typer.Option("--ops", help="With --probe: which kinds of ops it takes; a minute.")] = False,
) -> None:
    """List the SoCs by the names people use: which Hexagon generation each has, and which precisions it takes.

    With `--probe` the backend itself is asked: a toy network is compiled for the SoC at every precision, with nothing
    left to the CPU. Where it does not say what the table says, the line ends with `(the table says otherwise)`.
    With `--ops` each kind of op is asked for at each precision; that is kept in your cache folder, for this version of
    the backend. An op may be taken at 8 bits and work in float inside: `check --task` tells what is float.
    Reads no file of yours.

    **Examples**

        bitladder socs
        bitladder socs --probe "Snapdragon 7 Gen 4"
        bitladder socs --probe QCS6490 --ops
    """
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
    if ops:
        from platformdirs import user_cache_path

        from bitladder.targets.probe_ops import probe_ops

        table = dict(probe_ops(soc, user_cache_path("bitladder")))
        rows = [[kind, *("yes" if one == "yes" else "no" for one in said.values())] for kind, said in table.items()]
        typer.echo(tabulate(rows, ["op", *next(iter(table.values()))], "github"))
        for kind, said in table.items():
            for reason in sorted(set(said.values()) - {"yes"}):
                typer.echo(f"{kind}, {' '.join(one for one in said if said[one] == reason)}: {reason}")

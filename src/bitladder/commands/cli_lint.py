"""The command that tells of any ONNX file what the NPU would do otherwise: `lint`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import onnx

__all__ = ["lint"]


def lint(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file: QDQ, FP16, or float to run in FP16.")],
    soc: Annotated[str, typer.Option(metavar="SOC", help="The SoC that it is for.")] = "SM8650",
    precision: Annotated[
        str | None,
        typer.Option(metavar="PRECISION", help="Look at a float file as quantized so."),
    ] = None,
    fix: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the repaired graph to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell where the NPU would not do what an ONNX graph says, node by node, and how that is repaired.

    The graph may be of any tool's making. Nothing is compiled: these are known rules, each measured on the emulated NPU
    (the guide "When the NPU disagrees" has the table). In a pipeline `export.repairs` applies the same repairs.

    With `--precision` a float graph is looked at as it would be quantized. The ranges are those of random inputs, so
    that the rules are right which go by the kinds of nodes, and those that go by ranges are a guess.

    The exit code is 1 where anything is found, and 0 with `--fix`, which repairs all of it.

    **Examples**

        bitladder lint model.onnx
        bitladder lint model.onnx --soc QCS6490 --fix repaired.onnx
        bitladder lint float.onnx --precision W8A8
    """
    import onnx

    from bitladder.errors import UserError
    from bitladder.htp.lint import read_graph
    from bitladder.htp.repair import repair
    from bitladder.running.files import replacing
    from bitladder.socs import find_soc

    if precision and fix:
        raise UserError("--fix writes no graph of --precision, as its ranges are a guess; run `dvc repro` for that")
    proto = read_quantized(model, precision) if precision else read_graph(model)
    found = repair(proto, find_soc(soc))
    if fix:
        with replacing(fix) as temporary:
            onnx.save(proto, str(temporary))
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in found], indent=2))
    else:
        for one in found:
            typer.echo(one)
        if precision:
            done = f" at {precision}" + "; `dvc repro` repairs them in what it exports" * bool(found)
        else:
            done = f", all repaired in {fix}" if fix else "; --fix OUT.onnx repairs them" if found else ""
        typer.echo(f"{model}: {len(found)} nodes are not as the NPU of {soc} takes them{done}")
    if found and not fix:
        raise typer.Exit(1)


def read_quantized(model: Path, precision: str) -> "onnx.ModelProto":
    """Read a float ONNX file, and put quantizers of a precision into it."""
    from bitladder.errors import UserError
    from bitladder.targets.plain_qdq import quantize_guessed
    from bitladder.targets.probe import PROBED
    from bitladder.tasks.onnx_file import read

    if precision not in PROBED:
        raise UserError(f"--precision: {precision!r} is none of {', '.join(PROBED)}")
    proto = read(model, {}, ())
    if bits := PROBED[precision]:
        quantize_guessed(proto, bits)
    return proto

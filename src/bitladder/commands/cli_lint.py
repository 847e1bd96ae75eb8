"""The command that tells of any ONNX file what the NPU would do otherwise: `lint`."""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["lint"]


def lint(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file: QDQ, FP16, or float to run in FP16.")],
    soc: Annotated[str, typer.Option(metavar="SOC", help="The SoC that it is for.")] = "SM8650",
    fix: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the repaired graph to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell where the NPU would not do what an ONNX graph says, node by node, and how that is repaired.

    The graph may be of any tool's making. Nothing is compiled: these are known rules, each measured on the emulated NPU
    (the guide "When the NPU disagrees" has the table). In a pipeline `export.repairs` applies the same repairs.

    The exit code is 1 where anything is found, and 0 with `--fix`, which repairs all of it.

    **Examples**

        bitladder lint model.onnx
        bitladder lint model.onnx --soc QCS6490 --fix repaired.onnx
    """
    import onnx

    from bitladder.htp.lint import read_graph
    from bitladder.htp.repair import repair
    from bitladder.running.files import replacing
    from bitladder.socs import find_soc

    proto = read_graph(model)
    found = repair(proto, find_soc(soc))
    if fix:
        with replacing(fix) as temporary:
            onnx.save(proto, str(temporary))
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in found], indent=2))
    else:
        for one in found:
            typer.echo(one)
        done = f", all repaired in {fix}" if fix else "; --fix OUT.onnx repairs them" if found else ""
        typer.echo(f"{model}: {len(found)} nodes are not as the NPU of {soc} takes them{done}")
    if found and not fix:
        raise typer.Exit(1)

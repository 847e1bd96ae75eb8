"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["PARAMS", "ParamsFile"]

ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="The params.yaml to read.")]

PARAMS = Path("params.yaml")

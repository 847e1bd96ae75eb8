"""SoC facts as data: what each chip's NPU is called, and which precisions it takes."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ruamel.yaml import YAML

from bitladder.errors import UserError

__all__ = ["Soc", "all_socs", "find_soc"]


@dataclass(frozen=True)
class Soc:
    """One chip. `soc_model` is the number by which the Hexagon backend knows it."""

    name: str
    soc_model: int
    arch: str
    takes: tuple[str, ...]

    @property
    def quantsim_config(self) -> str:
        """Name of AIMET's QuantSim config for this chip's Hexagon generation."""
        return f"htp_{self.arch}"


@cache
def all_socs() -> dict[str, Soc]:
    """Give every known SoC by name. Source of the figures: the header of socs.yaml."""
    rows = YAML(typ="safe").load(files("bitladder").joinpath("socs.yaml").read_text("utf-8"))
    return {name: Soc(name, row["soc_model"], row["arch"], tuple(row["takes"])) for name, row in rows.items()}


def find_soc(name: str) -> Soc:
    """Give the SoC of this name. Raise UserError, with the known names, if there is none."""
    try:
        return all_socs()[name]
    except KeyError:
        raise UserError(f"{name!r} is not a known SoC; use one of {', '.join(sorted(all_socs()))}") from None

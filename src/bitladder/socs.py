"""SoC facts as data: what each chip's NPU is called, and which precisions it takes."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

from bitladder.errors import UserError

__all__ = ["Soc", "all_socs", "find_soc", "normalised", "siblings"]


@dataclass(frozen=True)
class Soc:
    """One chip. `soc_model` is the number by which the Hexagon backend knows it.

    `device` is the one that published latencies of this chip are of, None where there are none.
    """

    name: str
    soc_model: int
    arch: str
    takes: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    device: str | None = None

    @property
    def takes_blocks(self) -> bool:
        """Whether it takes a scale for each block of weights, at 16-bit activations.

        Asked of each: the SoCs with FP16 do, from v69 on. Of v68, SA8295 takes convolutions alone.
        """
        return "FP16" in self.takes and self.arch != "v68"

    def is_called(self, name: str) -> bool:
        """Whether this is its name or an alias, however spelt."""
        return normalised(name) in {normalised(known) for known in (self.name, *self.aliases)}

    def facts(self) -> dict[str, Any]:
        """Give what a pipeline's results may depend on, for JSON.

        Without a device of its own, latency is estimated from its siblings: a new one of them changes the estimate.
        """
        facts = {"soc_model": self.soc_model, "arch": self.arch, "takes": list(self.takes), "device": self.device}
        return facts if self.device else {**facts, "siblings": siblings(self.arch)}

    @property
    def quantsim_config(self) -> str:
        """Name of AIMET's QuantSim config for this chip's Hexagon generation."""
        return f"htp_{self.arch}"


@cache
def all_socs() -> dict[str, Soc]:
    """Give every known SoC by name. Source of the figures: the header of socs.yaml."""
    rows = YAML(typ="safe").load(files("bitladder").joinpath("socs.yaml").read_text("utf-8"))
    return {
        name: Soc(
            name,
            row["soc_model"],
            row["arch"],
            tuple(row["takes"]),
            tuple(row.get("aliases", ())),
            row.get("device"),
        )
        for name, row in rows.items()
    }


def find_soc(name: str) -> Soc:
    """Give the SoC of this name or alias, however spelt. Raise UserError, with the known names, if there is none."""
    for soc in all_socs().values():
        if soc.is_called(name):
            return soc
    raise UserError(
        f"{name!r} is not a known SoC; use one of {', '.join(sorted(all_socs()))} (`bitladder socs` lists them)"
    )


def siblings(arch: str) -> list[str]:
    """Give the devices with published latencies whose SoCs are of this Hexagon generation."""
    return sorted({soc.device for soc in all_socs().values() if soc.arch == arch and soc.device})


def normalised(name: str) -> str:
    """Reduce a name to what tells it from others: `Snapdragon 8 Gen 3` and `snapdragon-8-gen-3` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())

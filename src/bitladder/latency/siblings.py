"""Devices with chips of one Hexagon generation: they stand in for a device that nothing was published of."""

from bitladder.latency.table import unit_costs
from bitladder.socs import all_socs

__all__ = ["generation", "siblings"]


def generation(device: str) -> str:
    """Give the Hexagon generation of a device's SoC."""
    return next(soc.arch for soc in all_socs().values() if soc.device == device)


def siblings(arch: str) -> list[str]:
    """Give the devices with published latencies whose SoCs are of this generation."""
    measured = {device for device, _ in unit_costs()}
    return sorted({soc.device for soc in all_socs().values() if soc.arch == arch and soc.device in measured})

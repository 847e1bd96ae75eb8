"""The gap between NPU and QuantSim, layer by layer, for people."""

from tabulate import tabulate

from bitladder.socs import Soc
from bitladder.targets.gap import LayerGap, first_divergence

__all__ = ["format_gap"]


def format_gap(layers: list[LayerGap], soc: Soc, limit_db: float | None = None) -> str:
    """Give the layers as a Markdown table, then the first that diverges, what is typical of it and what to do."""
    first = first_divergence(layers, soc, limit_db)
    rows = []
    for layer in layers:
        mark = "<- diverges here" if layer is first else ""
        rows.append([layer.layer, "+".join(layer.kinds), layer.bits, f"{layer.sqnr_db:.1f}", mark])
    table = tabulate(rows, ["layer", "ops", "bits", "SQNR dB", ""], "github", disable_numparse=True)
    if first is None:
        worst = min(layers, key=lambda layer: layer.sqnr_db)
        verdict = f"No layer on {soc.name} diverges from QuantSim; the least is {worst.layer}, {worst.sqnr_db:.1f} dB."
        return f"{table}\n\n{verdict}"
    ops = "+".join(first.kinds)
    lines = [f"The NPU of {soc.name} diverges from QuantSim first at {first.layer} ({ops}), {first.sqnr_db:.1f} dB."]
    lines += [
        f"{'Typical of it' if cause.proven else 'Unproven, to be tried'}: {cause.text}." for cause in first.causes
    ] or ["Nothing typical is known of such a layer."]
    return "\n".join([table, "", *lines])

"""The bundle's README.md: a model card that a person reads before the model goes to a device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitladder.running.files import write_text
from bitladder.tasks.samples import Split

__all__ = ["write_card"]


def write_card(path: Path, manifest: Mapping[str, Any], split: Split, described: str) -> None:
    """Write the card from what the manifest says and the recorded samples."""
    write_text(path, "\n".join([*_head(manifest), *_figures(manifest), *_inputs(manifest, split, described), *_use()]))


def _head(manifest: Mapping[str, Any]) -> list[str]:
    chips = ", ".join(manifest["socs"])
    return [
        f"# {manifest['rung']}: {manifest['precision']} for {chips}",
        "",
        f"Quantized by {manifest['technique']}. {_sentence(manifest['reason'])}",
        "",
    ]


def _figures(manifest: Mapping[str, Any]) -> list[str]:
    rows = ["| figure | value | from |", "|---|---|---|"]
    names = ("metric", "value", "drop", "sqnr_db", "agreement", "samples", "gap", "memory_bytes", "latency_ms")
    for file, record in manifest["metrics"].items():
        for name in names:
            if name in record:
                value = record[name]
                rows.append(f"| {name} | {'not measured' if value is None else _cell(value)} | {file} |")
        told = record.get("device")
        for name, value in told.items() if isinstance(told, dict) else ():  # off target, it is what ran the network
            rows.append(f"| device: {name} | {'not told' if value is None else _cell(value)} | {file} |")
    sources = [f"- {name}: {_sentence(text)}" for name, text in manifest["sources"].items()]
    limits = [f"- {key}: {value}" for key, value in manifest["params"]["goals"].items() if value is not None]
    return ["## Figures", "", *rows, "", *sources, "", "## Goals that it was held to", "", *limits, ""]


def _inputs(manifest: Mapping[str, Any], split: Split, described: str) -> list[str]:
    rows = ["| input | type | shape of a sample | in the recorded samples |", "|---|---|---|---|"]
    for name, values in split.inputs.items():
        spread = f"{values.min().item():g} to {values.max().item():g}"
        if values.is_floating_point():
            spread += f", mean {values.mean().item():.4g}, deviation {values.std(correction=0).item():.4g}"
        kind, shape = str(values.dtype).removeprefix("torch."), " x ".join(map(str, (1, *values.shape[1:])))
        rows.append(f"| {_cell(name)} | {kind} | {shape} | {spread} |")
    task = manifest["params"]["task"]
    files = [f"- `{entry['path']}`: SHA-256 `{entry['sha256']}`" for entry in manifest["task"].values()]
    return [
        "## Pre- and post-processing",
        "",
        f"The model takes what `splits()` of the task `{task['factory']}` gives, one sample at a time, and gives"
        " what its network gives: nothing is scaled, normalised or decoded in the graph but by the network itself."
        " Prepare inputs on the device as that function does, and check the result against `samples.npz`.",
        *(["", f"Its author says: {_sentence(described)}"] if described else []),
        "",
        *rows,
        "",
        f"The metric is `{manifest['recorded']['metric']}` of that task, over the outputs as they come.",
        "",
        *files,
        "",
    ]


def _use() -> list[str]:
    return [
        "## Files",
        "",
        "- `model.onnx`: the graph that was compiled (QDQ, or FP16); `aimet/`: the float graph with AIMET's encodings.",
        "- a folder for each SoC: `model_ctx.onnx` wraps the context binary beside it; `answers.npz`: its outputs.",
        "- `runner.py`: runs it on the device; `python runner.py` repeats the recorded samples (`samples.npz`).",
        "- `manifest.json`: hashes, params, metrics and versions; `sbom.cdx.json`: the bill of materials (CycloneDX).",
        "",
        "`bitladder verify FOLDER` checks every byte and repeats the recorded outputs on the emulator. A context",
        "binary is for its SoC, compiled by the QAIRT that the manifest names. A latency is an estimate unless its",
        "source says `measured`.",
        "",
    ]


def _sentence(text: str) -> str:
    return " ".join(str(text).split()).rstrip(".") + "."


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

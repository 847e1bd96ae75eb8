"""The software bill of materials, in CycloneDX JSON: the bundle's models, and the libraries that made or run them."""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import metadata, requires, version
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bitladder.running.files import hash_path, write_text
from bitladder.running.version import installed

__all__ = ["write_sbom"]

RUNTIME = ("numpy", "onnxruntime", "onnxruntime-qnn")
"""What runner.py imports."""

BUILD = ("aimet-torch", "onnx", "safetensors", "torch")
"""What the pipeline made the files with; CycloneDX calls it excluded: it is not needed where the bundle runs."""


def write_sbom(path: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the bill of what lies in `folder`, with no time and no serial number: the same bundle, the same bytes."""
    bom = Bom()
    bom.metadata.component = Component(name="bundle", type=ComponentType.APPLICATION, bom_ref="bundle")
    for model in sorted(path for path in folder.rglob("*") if path.suffix in (".onnx", ".bin", ".dlc")):
        bom.components.add(_model(model, model.relative_to(folder).as_posix(), manifest))
    runtime = _closure(RUNTIME)
    for name in sorted(runtime | _closure(BUILD)):
        bom.components.add(_library(name, ComponentScope.REQUIRED if name in runtime else ComponentScope.EXCLUDED))
    bom.register_dependency(bom.metadata.component, bom.components)
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    content.pop("serialNumber")
    content["metadata"].pop("timestamp")
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _closure(roots: tuple[str, ...]) -> set[str]:
    """Name the installed distributions that these need, themselves among them."""
    found: set[str] = set()
    waiting = [canonicalize_name(root) for root in roots]
    while waiting:
        name = waiting.pop()
        if name not in found and installed(name):
            found.add(name)
            waiting += _needed(name)
    return found


def _needed(name: str) -> Iterator[Any]:
    for text in requires(name) or ():
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield canonicalize_name(wanted.name)


def _summary(name: str) -> str | None:
    """Give a package's own summary; None where it states none."""
    stated = metadata(name)
    return stated["Summary"] if "Summary" in stated else None  # noqa: SIM401


def _library(name: str, scope: ComponentScope) -> Component:
    release = version(name)
    return Component(
        name=name,
        version=release,
        type=ComponentType.LIBRARY,
        scope=scope,
        description=_summary(name),
        purl=PackageURL("pypi", name=name, version=release),
        bom_ref=f"{name}=={release}",
    )


def _model(path: Path, name: str, manifest: Mapping[str, Any]) -> Component:
    digest = HashType(alg=HashAlgorithm.SHA_256, content=hash_path(path))
    return Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[digest],
        description=f"{manifest['rung']} ({manifest['precision']}, {manifest['technique']})",
        bom_ref=name,
    )

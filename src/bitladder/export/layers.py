"""The user's layers in an exported graph: each node is told its layer and the line of the user's code that calls it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
from torch import fx, nn

from bitladder.running.explain import scope_name, scope_path
from bitladder.running.files import replacing

__all__ = ["note_layers"]


def note_layers(path: Path, model: nn.Module, lines: Mapping[str, str], within: str = "") -> None:
    """Write `layer (file:line)` into the doc_string of each node of a graph, where they are known.

    Args:
        path: of the graph, which was exported from the network.
        model: the network; one that came as ONNX has nodes of the user's own, and no layers to name.
        lines: by layer.
        within: where the network lies in what was exported.

    """
    proto, scopes, known = onnx.load(path), _scopes(model), dict(model.named_modules())
    for node in proto.graph.node:
        first, *parts = node.name.removeprefix("/").split("/")
        layer = scope_path([scopes.get(first, first), *parts[:-1]] if parts else []).removeprefix(f"{within}.")
        while layer and layer not in known:
            layer = layer.rpartition(".")[0]
        if layer:
            node.doc_string = f"{layer} ({lines[layer]})" if lines.get(layer) else layer
    with replacing(path) as temporary:
        onnx.save(proto, str(temporary))


def _scopes(model: nn.Module) -> dict[str, str]:
    """Give layers by what torch's exporter calls them in a network that torch.fx has written.

    Such a network calls all its layers from one function, so that the exporter knows the ends of their paths alone, and
    counts those that are alike. Other networks' modules call each other, and so have their whole paths.
    """
    if not isinstance(model, fx.GraphModule):
        return {}
    seen: Counter[str] = Counter()
    found = {}
    for path in (str(node.target) for node in model.graph.nodes if node.op == "call_module"):
        name = scope_name(path)
        found[f"{name}_{seen[name]}" if seen[name] else name] = path
        seen[name] += 1
    return found

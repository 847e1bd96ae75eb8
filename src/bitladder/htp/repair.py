"""Rules applied to a graph: what they find, and the graph as they repair it."""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from bitladder.htp.graph import Graph
from bitladder.htp.registry import RULES
from bitladder.htp.rule import Rule
from bitladder.socs import Soc

__all__ = ["Finding", "find", "repair"]


@dataclass(frozen=True)
class Finding:
    """A node that a rule concerns."""

    rule: Rule
    node: str
    op: str

    def __str__(self) -> str:
        """Say it in a line."""
        rule = self.rule
        changes = f" It changes {rule.changes}." if rule.changes else ""
        return f"{self.node} ({self.op}), {rule.effect}: {rule.why}. Repair ({rule.name}): {rule.remedy}.{changes}"

    def as_dict(self) -> dict[str, str]:
        """Give it as JSON has it."""
        rule = self.rule
        said = {"where": rule.where, "why": rule.why, "remedy": rule.remedy, "changes": rule.changes}
        return {"rule": rule.name, "effect": rule.effect, "node": self.node, "op": self.op, **said}


def find(proto: onnx.ModelProto, soc: Soc) -> list[Finding]:
    """Find the nodes of a graph that rules concern; it is left as it is."""
    graph = Graph(proto)
    return [
        Finding(rule, node.name or node.output[0], node.op_type)
        for rule in RULES.values()
        for node in rule.find(graph, soc)
    ]


def repair(proto: onnx.ModelProto, soc: Soc, names: Iterable[str] = RULES) -> list[Finding]:
    """Repair a graph in place by the rules of these names, in the order of RULES; give what was repaired.

    They are applied twice: a repair can bring forth what an earlier rule concerns, or its own.
    """
    graph, repaired, wanted = Graph(proto), [], set(names)
    for rule in [rule for name, rule in RULES.items() if name in wanted] * 2:
        for node in list(rule.find(graph, soc)):
            repaired.append(Finding(rule, node.name or node.output[0], node.op_type))
            rule.repair(graph, node, soc)
    if repaired:
        graph.drop_unread()
    return repaired

"""Every rule by its name, in the order in which they are applied."""

from importlib import import_module

from bitladder.htp.rule import Rule
from bitladder.params import RULES as PLACES

__all__ = ["RULES"]


def _load(place: str) -> Rule:
    module, _, name = place.partition(":")
    rule: Rule = getattr(import_module(module), name)
    return rule


RULES: dict[str, Rule] = {name: _load(place) for name, place in PLACES.items()}
"""Of each row in `params.RULES`, the rule."""

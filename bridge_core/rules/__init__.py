"""Rules as data: what a user or a model family knows better than the evidence."""

from bridge_core.rules.calls import Call
from bridge_core.rules.clauses import Radix, Size, When
from bridge_core.rules.rule import Action, Rule
from bridge_core.rules.sets import as_patterns, matches, overlapping, resolve_sizes

__all__ = [
    "Action",
    "as_patterns",
    "Call",
    "matches",
    "overlapping",
    "Radix",
    "resolve_sizes",
    "Rule",
    "Size",
    "When",
]

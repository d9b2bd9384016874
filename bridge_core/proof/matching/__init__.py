"""Proposes rules from the names, shapes and trees of two checkpoints."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.proof.matching.match_checkpoints import match as match
    from bridge_core.proof.matching.matching import (
        Choice as Choice,
        LeafPair as LeafPair,
        Matching as Matching,
        Option as Option,
        PatternPair as PatternPair,
        Unmatched as Unmatched,
    )
    from bridge_core.proof.matching.settled_choices import settle as settle
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "match_checkpoints": "match",
            "matching": "Choice LeafPair Matching Option PatternPair Unmatched",
            "settled_choices": "settle",
        },
    )

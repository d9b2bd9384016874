"""Resolution: from names, shapes and evidence to a plan, through the neutral form."""

from bridge_core.resolve.checking import rule_problems
from bridge_core.resolve.from_neutral import plan_from_neutral
from bridge_core.resolve.pause import collection_paused
from bridge_core.resolve.ruling import config_beside, oriented
from bridge_core.resolve.to_neutral import plan_to_neutral

__all__ = [
    "collection_paused",
    "config_beside",
    "oriented",
    "plan_from_neutral",
    "plan_to_neutral",
    "rule_problems",
]

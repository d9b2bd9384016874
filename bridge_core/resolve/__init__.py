"""Resolution: from names, shapes and evidence to a plan, through the neutral form."""

from bridge_core.resolve.from_neutral import plan_from_neutral
from bridge_core.resolve.to_neutral import plan_to_neutral

__all__ = ["plan_from_neutral", "plan_to_neutral"]

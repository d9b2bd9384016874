"""Plans: conversions as data, complete before one byte of tensor data moves."""

from bridge_core.plan.plan import Plan
from bridge_core.plan.steps import Dropped, Mismatch, Step

__all__ = ["Dropped", "Mismatch", "Plan", "Step"]

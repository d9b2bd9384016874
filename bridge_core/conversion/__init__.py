"""The calls users make: inputs to plan to result."""

from bridge_core.conversion.convert import convert, plan_conversion, verify
from bridge_core.conversion.in_memory import from_neutral, to_neutral
from bridge_core.conversion.inputs import state_of
from bridge_core.conversion.report import Report

__all__ = ["convert", "from_neutral", "plan_conversion", "Report", "state_of", "to_neutral", "verify"]

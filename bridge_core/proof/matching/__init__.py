"""Proposes rules from the names, shapes and trees of two checkpoints."""

from bridge_core.public import exports

__getattr__, __dir__, __all__ = exports(__name__, {})

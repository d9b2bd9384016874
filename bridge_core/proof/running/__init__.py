"""Runs two models on the same weights, and finds the module where they part."""

from bridge_core.public import exports

__getattr__, __dir__, __all__ = exports(__name__, {})

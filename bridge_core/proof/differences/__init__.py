"""Names what turned one tensor into another."""

from bridge_core.public import exports

__getattr__, __dir__, __all__ = exports(__name__, {})

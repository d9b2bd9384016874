"""Public names: loaded on first use, and old ones that still work for a release."""

from bridge_core.public.deprecated import renamed
from bridge_core.public.lazy import exports

__all__ = ["exports", "renamed"]

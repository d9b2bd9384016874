"""Public names: loaded on first use, and old ones that still work for a release."""

from bridge_core.public.arguments import require_bool
from bridge_core.public.deprecated import gathered, renamed
from bridge_core.public.lazy import exports

__all__ = ["exports", "gathered", "renamed", "require_bool"]

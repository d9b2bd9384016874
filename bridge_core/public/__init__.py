"""Public names: loaded on first use, and old ones that still work for a release."""

from bridge_core.public.arguments import require_bool
from bridge_core.public.deprecated import gathered, renamed
from bridge_core.public.lazy import exports, public_name

__all__ = ["exports", "gathered", "public_name", "renamed", "require_bool"]

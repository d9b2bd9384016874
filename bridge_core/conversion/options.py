"""The options of a conversion."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bridge_core.errors import UsageError
from bridge_core.plugins import Guidance
from bridge_core.rules import Permissions
from bridge_core.state import dtype_named

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["ConversionOptions"]


@dataclass(frozen=True)
class ConversionOptions:
    """The options of a conversion; see `bridge_core.plan_conversion` for each field, `convert` for the dtype.

    Raises:
        UnsupportedFeature: The dtype is unknown.
        UsageError: A template is given for a neutral target.
    """

    to: str
    like: Any = None
    model: Any = None
    rules: tuple[Rule, ...] = ()
    permissions: Permissions = field(default_factory=Permissions)
    layout: str | None = None
    follow_links: bool = False
    dtype: str | None = None
    notes: tuple[str, ...] = ()
    """Notes that a model library adds for the reader of a report."""

    def __post_init__(self) -> None:
        """Check that a neutral target has no template, and that the dtype is known."""
        if self.like is not None and self.to == "neutral":
            raise UsageError(
                'like= (--like) cannot be combined with to="neutral" (--to neutral), which has no template.',
                hint="Remove like= (--like), or convert to the template's framework.",
            )
        if self.dtype is not None:
            dtype_named(self.dtype)

    def guided(self, known: Guidance) -> ConversionOptions:
        """Return the options with what a library adds, wherever the caller gives no value."""
        return replace(
            self,
            model=known.model if self.model is None or isinstance(self.model, str) else self.model,
            like=known.like if self.like is None else self.like,
            rules=(*self.rules, *(replace(rule, fallback=True) for rule in known.rules)),
            notes=known.notes,
        )

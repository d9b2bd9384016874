"""The options of a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bridge_core.errors import RuleError, UsageError
from bridge_core.messages import nearest, shown
from bridge_core.plugins import Guidance, Registry
from bridge_core.public import require_bool
from bridge_core.rules import Permissions
from bridge_core.state import DTYPES, FlatState, is_floating

if TYPE_CHECKING:
    from bridge_core.conversion.recipes import GivenRecipe
    from bridge_core.conversion.selection import Only, Part
    from bridge_core.rules import Rule

__all__ = ["ConversionOptions", "floating_dtype", "given_only"]


@dataclass(frozen=True)
class ConversionOptions:
    """The options of a conversion; see `bridge_core.plan_conversion` for each field, `convert` for the dtype.

    Raises:
        UsageError: A dtype is not the name of a floating-point dtype, a pattern of dtypes is not valid, or a
            template is given for a neutral target.
    """

    to: str
    like: Any = None
    model: Any = None
    rules: tuple[Rule, ...] = ()
    permissions: Permissions = field(default_factory=Permissions)
    layout: str | None = None
    follow_links: bool = False
    dtype: str | Mapping[str, str] | None = None
    recipe: GivenRecipe = None
    only: tuple[Only, ...] = ()
    part: Part | None = None
    """The part of the source that ``only`` chooses; None for all of it."""
    describes_part: bool = False
    """Whether the model and the template are those of the part, as a model library made them."""
    notes: tuple[str, ...] = ()
    """Notes that a model library adds for the reader of a report."""

    def __post_init__(self) -> None:
        """Check that a neutral target has no template, and that the dtype is a floating-point one."""
        require_bool("follow_links", self.follow_links)
        if self.like is not None and self.to == "neutral":
            raise UsageError(
                'like= (--like) cannot be combined with to="neutral" (--to neutral), which has no template.',
                hint="Remove like= (--like), or convert to the template's framework.",
            )
        if isinstance(self.dtype, Mapping):
            from bridge_core.rules import Pattern

            for pattern, name in self.dtype.items():
                try:
                    Pattern.parse(pattern)
                except RuleError as err:
                    raise UsageError(f"dtype= (--dtype): {err.message}", hint=err.hint) from err
                floating_dtype(name)
        elif self.dtype is not None:
            floating_dtype(self.dtype)

    @property
    def main_dtype(self) -> str | None:
        """The dtype of what no pattern names; None if it is not cast."""
        return self.dtype.get("**") if isinstance(self.dtype, Mapping) else self.dtype

    def with_part(self, state: FlatState, registry: Registry) -> ConversionOptions:
        """Return the options with the part of a source that ``only`` chooses.

        Raises:
            UsageError: A pattern names nothing, too little, or two things.
        """
        if not self.only:
            return self
        from bridge_core.conversion.selection import part_of_source

        return replace(self, part=part_of_source(state, self.only, registry))

    def guided(self, known: Guidance) -> ConversionOptions:
        """Return the options with what a library adds, wherever the caller gives no value."""
        return replace(
            self,
            model=known.model if self.model is None or isinstance(self.model, str) else self.model,
            like=known.like if self.like is None else self.like,
            rules=(*self.rules, *(replace(rule, fallback=True) for rule in known.rules)),
            notes=known.notes,
            describes_part=known.describes_selection and known.model is not None,
        )


def given_only(value: Any) -> tuple[Only, ...]:
    """Return what a caller passes as ``only=``, read; nothing for no pattern.

    Raises:
        UsageError: It is neither a text nor a list of texts, or one of them is not valid.
    """
    if value in (None, (), []):
        return ()
    from bridge_core.conversion.selection import as_only

    return as_only(value)


def floating_dtype(name: str) -> str:
    """Return the name of a floating-point dtype.

    Raises:
        UsageError: It is not the name of one.
    """
    known = [dtype_name for dtype_name, dtype in DTYPES.items() if is_floating(dtype)]
    if not isinstance(name, str) or name not in known:
        near = name if isinstance(name, str) else str(getattr(name, "__name__", name)).rpartition(".")[2]
        raise UsageError(
            f"expected the name of a floating-point dtype as dtype= (--dtype), got {shown(name)}.",
            hint=nearest(near, known),
        )
    return name

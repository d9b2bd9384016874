"""The conditions of a rule: ``when = { rank = 2, config.model_type = "gpt2" }``, read into plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from bridge_core.axes import Comparison, Expression, SizeLookup, config_entry
from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.rules.patterns import Pattern

__all__ = ["When"]

_KNOWN = ("rank", "sizes", "config", "exists", "missing", "target")


@dataclass(frozen=True)
class When:
    """Conditions under which a rule is used; all of them must hold.

    Args:
        rank: Number of axes of the first tensor.
        sizes: Axis of the first tensor -> its size.
        config: Name of an entry of the checkpoint's config, dotted where it is nested -> its value.
        of_target: Whether the first tensor, and the names, are those of the target; if not, they are those of
            the source.
        comparisons: Comparisons of axes of the first tensor, of sizes and of entries of the config.
        exists: Patterns that each match a name.
        missing: Patterns that match no name.
        others_exist: As ``exists``, about the names of the other side.
        others_missing: As ``missing``, about the names of the other side.
        is_met: Whether the conditions on names hold; None as long as the names are not known.

    >>> bool(When())
    False
    >>> print(When.parse({"sizes": "f > d", "missing": "lm_head.weight"}))
    f > d and 'lm_head.weight' is missing
    """

    rank: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    config: tuple[tuple[str, str | int | float | bool], ...] = ()
    of_target: bool = False
    comparisons: tuple[Comparison, ...] = ()
    exists: tuple[Pattern, ...] = ()
    missing: tuple[Pattern, ...] = ()
    others_exist: tuple[Pattern, ...] = ()
    others_missing: tuple[Pattern, ...] = ()
    is_met: bool | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, conditions: Mapping[str, Any]) -> When:
        """Read ``{"rank": 2, "sizes": {"in": 768}, "config": {"model_type": "gpt2"}}``.

        Raises:
            RuleError: A condition is unknown, or has a value of a wrong type.
        """
        for name in conditions:
            if name not in _KNOWN:
                raise RuleError(f"unknown condition when.{name}.", hint=nearest(name, _KNOWN))
        rank, sizes, config, exists, missing, target = (conditions.get(name) for name in _KNOWN)
        if rank is not None and not _is_count(rank):
            raise RuleError(f"when.rank: expected a number of axes, such as 2, got {rank!r}.")
        comparisons: tuple[Comparison, ...] = ()
        if sizes is not None and not isinstance(sizes, Mapping):
            comparisons = tuple(map(Comparison.parse, _texts("sizes", sizes, "'f > d'")))
            sizes = None
        if config is not None and not isinstance(config, Mapping):
            raise RuleError(
                f'when.config: expected a table such as {{ model_type = "gpt2" }}, got {config!r}.'
            )
        for axis, size in (sizes or {}).items():
            if not _is_count(size):
                raise RuleError(f"when.sizes.{axis}: expected a size, such as 768, got {size!r}.")
        if target is not None and not (
            isinstance(target, Mapping) and target.keys() <= {"exists", "missing"}
        ):
            raise RuleError(
                f"when.target: expected a table such as {{ exists = 'lm_head.kernel' }}, got {target!r}.",
                hint="It may have exists and missing, about names of the target.",
            )
        others = {
            name: _patterns(f"target.{name}", (target or {}).get(name)) for name in ("exists", "missing")
        }
        flat = dict(_flat(config or {}))
        for entry, value in flat.items():
            name = entry.partition("[")[0]
            if not isinstance(value, str | int | float) or name != entry:
                raise RuleError(
                    f"when.config.{entry}: expected a text, a number, true or false, got {value!r}.",
                    hint=f"To choose layers, write where = \"config.{name}[i] == 'full_attention'\".",
                )
        return cls(
            rank,
            tuple((sizes or {}).items()),
            tuple(flat.items()),
            comparisons=comparisons,
            exists=_patterns("exists", exists),
            missing=_patterns("missing", missing),
            others_exist=others["exists"],
            others_missing=others["missing"],
        )

    def __bool__(self) -> bool:
        """Return whether there is any condition."""
        return self.needs_shape or self.names_keys or bool(self.config)

    def __str__(self) -> str:
        """Return the conditions in one line."""
        texts = [] if self.rank is None else [f"rank {self.rank}"]
        texts += [f"{axis} = {size}" for axis, size in self.sizes]
        texts += map(str, self.comparisons)
        texts += [f"config.{name} = {value!r}" for name, value in self.config]
        texts += [f"'{pattern}' exists" for pattern in self.exists]
        texts += [f"'{pattern}' is missing" for pattern in self.missing]
        texts += [f"'{pattern}' exists in the target" for pattern in self.others_exist]
        texts += [f"'{pattern}' is missing in the target" for pattern in self.others_missing]
        return " and ".join(texts)

    @property
    def needs_shape(self) -> bool:
        """Whether there are conditions on the first tensor."""
        return self.rank is not None or bool(self.sizes or self.comparisons)

    @property
    def names_keys(self) -> bool:
        """Whether there are conditions on the names of a side."""
        return any(exists or missing for _, exists, missing in self.by_side)

    @property
    def by_side(self) -> tuple[tuple[bool, tuple[Pattern, ...], tuple[Pattern, ...]], ...]:
        """What names exist and are missing on each side; first, whether it is that of the target."""
        return (
            (self.of_target, self.exists, self.missing),
            (not self.of_target, self.others_exist, self.others_missing),
        )

    @property
    def names_sources(self) -> bool:
        """Whether there are conditions on the names of the source."""
        return any(exists or missing for of_target, exists, missing in self.by_side if not of_target)

    @property
    def is_undecided(self) -> bool:
        """Whether the conditions on names are taken to hold, since the names are not known."""
        return self.names_keys and self.is_met is None

    @property
    def names(self) -> frozenset[str]:
        """The names that comparisons use; entries of the config as ``config.n_head``."""
        return frozenset().union(*(comparison.names for comparison in self.comparisons))

    def reversed(self) -> When:
        """Return the same conditions for the rule that is read in the other direction."""
        turns = self.needs_shape or self.names_keys
        return replace(self, of_target=not self.of_target) if turns else self

    def without_shape(self) -> When:
        """Return the conditions that do not need the first tensor."""
        return replace(self, rank=None, sizes=(), comparisons=())

    def holds(
        self,
        shape: Sequence[int],
        axes: Mapping[str, int],
        config: Mapping[str, Any] | None = None,
        sizes: Mapping[str, Expression] = MappingProxyType({}),
    ) -> bool:
        """Return whether all conditions hold.

        Args:
            shape: Shape of the first tensor of the side that the conditions are about.
            axes: Name of an axis -> its index in the shape.
            config: The checkpoint's config; None if there is none.
            sizes: Name -> its size, as the rule states it.

        Raises:
            RuleError: A condition needs a config and gets none, or a comparison has no value.
        """
        if self.is_met is False:
            return False
        if self.config and config is None:
            name, value = self.config[0]
            raise RuleError(
                f"the condition when.config.{name} = {value!r} cannot be checked: the checkpoint has no "
                "config.json.",
                hint="Put the model's config.json next to the source file, or remove the condition.",
            )
        if self.rank is not None and len(shape) != self.rank:
            return False
        for axis, size in self.sizes:
            place = axes[axis]
            if not -len(shape) <= place < len(shape) or shape[place] != size:
                return False
        if not all(_same(config_entry(config or {}, name.split(".")), value) for name, value in self.config):
            return False
        known = {axis: shape[place] for axis, place in axes.items() if -len(shape) <= place < len(shape)}
        if any(name in axes and name not in known for name in self.names):
            return False
        lookup = SizeLookup(sizes, config, known)
        try:
            return all(comparison.holds(lookup) for comparison in self.comparisons)
        except RuleError:
            if self.of_target and lookup.lacks_value:  # the way back may know less
                return True
            raise


def _texts(name: str, value: Any, example: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        table = "a table such as { in = 768 }, " if name == "sizes" else ""
        raise RuleError(
            f"when.{name}: expected {table}a text such as {example}, or a list of them, got {value!r}."
        )
    return list(texts)


def _patterns(name: str, value: Any) -> tuple[Pattern, ...]:
    texts = [] if value is None else _texts(name, value, "'lm_head.weight'")
    patterns = tuple(map(Pattern.parse, texts))
    for pattern in patterns:
        if pattern.may_be_absent:
            raise RuleError(f"when.{name}: '{pattern}' has a '?'.", hint="Write the pattern without it.")
    return patterns


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _flat(config: Mapping[str, Any], head: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", value


def _same(entry: Any, value: str | int | float | bool) -> bool:
    """Return whether both are equal in JSON, where true is not a number."""
    return entry == value and isinstance(entry, bool) == isinstance(value, bool)

"""The conditions of a rule: ``when = { rank = 2, config.model_type = "gpt2" }``, read into plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.rules.sizes import config_entry

__all__ = ["When"]


@dataclass(frozen=True)
class When:
    """Conditions under which a rule is used; all of them must hold.

    Args:
        rank: Number of axes of the first tensor.
        sizes: Axis of the first tensor -> its size.
        config: Name of an entry of the checkpoint's config, dotted where it is nested -> its value.
        of_target: Whether the first tensor is that of the targets; if not, it is that of the sources.

    >>> bool(When())
    False
    """

    rank: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    config: tuple[tuple[str, str | int | float | bool], ...] = ()
    of_target: bool = False

    @classmethod
    def parse(cls, conditions: Mapping[str, Any]) -> When:
        """Read ``{"rank": 2, "sizes": {"in": 768}, "config": {"model_type": "gpt2"}}``.

        Raises:
            RuleError: A condition is unknown, or has a value of a wrong type.
        """
        known = ("rank", "sizes", "config")
        for name in conditions:
            if name not in known:
                raise RuleError(f"unknown condition when.{name}.", hint=nearest(name, known))
        rank, sizes, config = (conditions.get(name) for name in known)
        if rank is not None and not _is_count(rank):
            raise RuleError(f"when.rank: expected a number of axes, such as 2, got {rank!r}.")
        for name, group in (("sizes", sizes), ("config", config)):
            if group is not None and not isinstance(group, Mapping):
                example = "{ in = 768 }" if name == "sizes" else '{ model_type = "gpt2" }'
                raise RuleError(f"when.{name}: expected a table such as {example}, got {group!r}.")
        for axis, size in (sizes or {}).items():
            if not _is_count(size):
                raise RuleError(f"when.sizes.{axis}: expected a size, such as 768, got {size!r}.")
        flat = dict(_flat(config or {}))
        for entry, value in flat.items():
            if not isinstance(value, str | int | float):
                raise RuleError(
                    f"when.config.{entry}: expected a text, a number, true or false, got {value!r}."
                )
        return cls(rank, tuple((sizes or {}).items()), tuple(flat.items()))

    def __bool__(self) -> bool:
        """Return whether there is any condition."""
        return self.rank is not None or bool(self.sizes or self.config)

    def __str__(self) -> str:
        """Return the conditions in one line."""
        texts = [] if self.rank is None else [f"rank {self.rank}"]
        texts += [f"{axis} = {size}" for axis, size in self.sizes]
        texts += [f"config.{name} = {value!r}" for name, value in self.config]
        return " and ".join(texts)

    def reversed(self) -> When:
        """Return the same conditions for the rule that is read in the other direction."""
        return replace(self, of_target=not self.of_target) if self.rank is not None or self.sizes else self

    def holds(
        self, shape: Sequence[int], axes: Mapping[str, int], config: Mapping[str, Any] | None = None
    ) -> bool:
        """Return whether all conditions hold.

        Args:
            shape: Shape of the first tensor of the side that the conditions are about.
            axes: Name of an axis -> its index in the shape.
            config: The checkpoint's config; None if there is none.

        Raises:
            RuleError: A condition is about the config, and there is none.
        """
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
        return all(_same(config_entry(config or {}, name.split(".")), value) for name, value in self.config)


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

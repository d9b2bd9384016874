"""The conditions of a rule: ``when = { rank = 2, config.model_type = "gpt2" }``, read into plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.rules.config_sizes import config_entry

__all__ = ["When"]


@dataclass(frozen=True)
class When:
    """Conditions under which a rule holds; all of them must.

    Args:
        rank: Number of axes of the first tensor.
        sizes: Axis of the first tensor -> its size.
        config: Name of an entry of the checkpoint's config, dotted where it is nested -> its value.
        of_target: Whether the first tensor is that of the targets; it is the sources' otherwise.

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
            RuleError: A condition is not known or of a wrong type.
        """
        known = ("rank", "sizes", "config")
        for name in conditions:
            if name not in known:
                raise RuleError(f"when has no condition {name!r}. {nearest(name, known)}")
        rank, sizes, config = (conditions.get(name) for name in known)
        if rank is not None and not _is_count(rank):
            raise RuleError(f"when.rank is {rank!r}; a number was expected.")
        for name, group in (("sizes", sizes), ("config", config)):
            if group is not None and not isinstance(group, Mapping):
                raise RuleError(f"when.{name} is {group!r}; names with their values were expected.")
        for axis, size in (sizes or {}).items():
            if not _is_count(size):
                raise RuleError(f"when.sizes.{axis} is {size!r}; a number was expected.")
        flat = dict(_flat(config or {}))
        for entry, value in flat.items():
            if not isinstance(value, str | int | float):
                raise RuleError(
                    f"when.config.{entry} is {value!r}; a text, a number, true or false was expected."
                )
        return cls(rank, tuple((sizes or {}).items()), tuple(flat.items()))

    def __bool__(self) -> bool:
        """Tell whether there is any condition."""
        return self.rank is not None or bool(self.sizes or self.config)

    def __str__(self) -> str:
        """Return one line."""
        texts = [] if self.rank is None else [f"rank {self.rank}"]
        texts += [f"{axis} = {size}" for axis, size in self.sizes]
        texts += [f"config.{name} = {value!r}" for name, value in self.config]
        return " and ".join(texts)

    def reversed(self) -> When:
        """Return the same conditions for the rule that is read the other way."""
        return replace(self, of_target=not self.of_target) if self.rank is not None or self.sizes else self

    def holds(
        self, shape: Sequence[int], axes: Mapping[str, int], config: Mapping[str, Any] | None = None
    ) -> bool:
        """Tell whether all conditions hold.

        Args:
            shape: Shape of the first tensor of the side that the conditions are about.
            axes: Name of an axis -> its place in the shape.
            config: The checkpoint's config; None if none is known.

        Raises:
            RuleError: It goes by the config, and none is known.
        """
        if self.config and config is None:
            name, value = self.config[0]
            raise RuleError(
                f"it holds where config.{name} = {value!r}, and no config of the checkpoint is known."
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


def _same(found: Any, wanted: str | int | float | bool) -> bool:
    """Compare as JSON does: true is no number."""
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)

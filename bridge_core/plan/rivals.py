"""Prefixes that match equally well, of which a conversion chooses none unasked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge_core.errors import MismatchError
from bridge_core.messages import count, listed
from bridge_core.state import Key, join_key

if TYPE_CHECKING:
    from bridge_core.plan.causes import Cause

__all__ = ["Rivals"]


@dataclass(frozen=True)
class Rivals:
    """Several prefixes of names that would let the source match the template.

    Each of them would match other layers.

    Args:
        prefixes: The prefixes, without collections; the empty one is that of names without a prefix.
        side: Which names have the prefixes: those of the ``source`` or of the ``template``.
        matches: How many layers each of them matches, at most.
    """

    prefixes: tuple[Key, ...]
    side: str
    matches: int

    @property
    def names(self) -> tuple[str, ...]:
        """The prefixes as text."""
        return tuple(map(join_key, self.prefixes))

    def error(self, causes: Iterable[Cause] = ()) -> MismatchError:
        """Return the error that names them all.

        Args:
            causes: What the source is, if it is not plain weights.
        """
        from bridge_core.plan.advice import LISTED, cause_sentences, cause_ways

        causes = tuple(causes)
        way = self._way_of_source() if self.side == "source" else self._way_of_template()
        texts = (name or "(no prefix)" for name in self.names)
        return MismatchError(
            f"{len(self.names)} prefixes of the {self.side}'s names match equally well "
            f"({count(self.matches, 'layer')} each), and no evidence decides between them: "
            f"{listed(texts, LISTED)}.{cause_sentences(causes)}",
            hint=" ".join((*cause_ways(causes), way)),
        )

    def _way_of_source(self) -> str:
        """Return how to convert one of the source's copies: that without a prefix, or else the first."""
        chosen = "" if "" in self.names else self.names[0]
        others = [f"{name}.**" for name in self.names if name != chosen]
        keyword = repr(others[0] if len(others) == 1 else others)
        options = " ".join(f"--allow-unexpected {pattern!r}" for pattern in others)
        what = chosen or "the tensors without a prefix"
        return (
            f"To convert {what}, leave out the others: allow_unexpected={keyword} ({options}). Or drop them "
            f'by a rule, rules="rules.toml" (--rules FILE): source = "{others[0]}", drop = "not used".'
        )

    def _way_of_template(self) -> str:
        """Return how to fill one of the template's copies: the first that has a prefix."""
        chosen = next(name for name in self.names if name)
        return (
            f"To fill {chosen}, write a rule that gives the source's layers this prefix, "
            f'rules="rules.toml" (--rules FILE): source = "**", rename = "{chosen}.**".'
        )

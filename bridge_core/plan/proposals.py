"""Rename rules that would pair what a source has left over with what a template is missing."""

from __future__ import annotations

from dataclasses import dataclass

from bridge_core.messages import count

__all__ = ["Proposal", "ProposedRename"]


@dataclass(frozen=True)
class ProposedRename:
    """One rename rule of a proposal.

    Args:
        source: Pattern of the names that the source has.
        rename: Pattern of the names that the target has.
        where: How the numbers of both patterns are related.
    """

    source: str
    rename: str
    where: tuple[str, ...] = ()

    @property
    def toml(self) -> str:
        """The rule in the TOML of a rule file."""
        rows = ["[[rule]]", f'source = "{self.source}"', f'rename = "{self.rename}"']
        if self.where:
            texts = ", ".join(f'"{text}"' for text in self.where)
            rows.append(f"where = {texts if len(self.where) == 1 else f'[{texts}]'}")
        return "\n".join(rows)


@dataclass(frozen=True)
class Proposal:
    """Rename rules, found only by shapes and siblings, which no conversion applies unasked.

    Args:
        renames: The rules.
        prefix: The prefix that only the source's names have, and that which only the target's have.
        layouts: The layouts of source and target.
        left: How many tensors of both sides they leave without a partner.
    """

    renames: tuple[ProposedRename, ...]
    prefix: tuple[str, str] = ("", "")
    layouts: tuple[str, str] = ("", "")
    left: int = 0

    @property
    def toml(self) -> str:
        """A complete rule file."""
        source, target = self.layouts
        parts = [f'source = "{source}"\ntarget = "{target}"']
        if self.left:
            parts.insert(0, f"# {count(self.left, 'tensor')} of both sides would still have no partner")
        if any(self.prefix):
            sides = zip(("source", "target"), self.prefix, strict=True)
            parts.append("\n".join(["[prefix]", *(f'{side} = "{name}"' for side, name in sides if name)]))
        return "\n\n".join((*parts, *(rename.toml for rename in self.renames))) + "\n"

"""What the matching of two trees found, before it is written as rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge_core.proof.matching.folding import NodePath
from bridge_core.proof.matching.fused import Fused
from bridge_core.proof.matching.leaf_evidence import Draft

__all__ = ["DraftChoice", "Outcome"]


@dataclass(eq=False)
class Outcome:
    """What the matching of a pool found.

    Args:
        drafts: Pairs of leaves.
        choices: What is open.
        ours: Leaves of the source without a partner.
        theirs: Leaves of the target without a partner.
        fused: Leaves that are several of the other side.
        misfits: How many pairs of leaves no equation fits.
        usual: Whether all leaves with two axes may be linear layers as both frameworks store them.
    """

    drafts: list[Draft] = field(default_factory=list)
    choices: list[DraftChoice] = field(default_factory=list)
    ours: list[NodePath] = field(default_factory=list)
    theirs: list[NodePath] = field(default_factory=list)
    fused: list[Fused] = field(default_factory=list)
    misfits: int = 0
    usual: bool = True

    def add(self, other: Outcome) -> None:
        """Add what another pool found."""
        self.drafts += other.drafts
        self.choices += other.choices
        self.ours += other.ours
        self.theirs += other.theirs
        self.fused += other.fused
        self.misfits += other.misfits
        self.usual = self.usual and other.usual

    @property
    def open_ends(self) -> int:
        """How many leaves have no partner."""
        return len(self.ours) + len(self.theirs) + 2 * self.misfits


@dataclass(eq=False)
class DraftChoice:
    """Items that cannot be distinguished, and what each pair of them would be."""

    ours: list[NodePath]
    theirs: list[NodePath]
    options: list[tuple[NodePath, NodePath, Outcome]]
    reason: str

"""Pairs that trees decide and names of layers contradict: they become choices.

Two trees of one form can still be two models: where one framework has the embedding at the top and the head
inside, and the other the head at the top and the embedding inside, both trees look alike.
"""

from __future__ import annotations

from math import prod

from bridge_core.proof.matching.folding import NodePath
from bridge_core.proof.matching.leaf_evidence import Draft, LeafEvidence, name_of
from bridge_core.proof.matching.outcome import DraftChoice, Outcome

__all__ = ["with_doubts"]

_EMBEDDING = "embedding"
_WORDS = ("embed", "emb", "wte", "wpe")


def with_doubts(outcome: Outcome, evidence: LeafEvidence) -> Outcome:
    """Return an outcome in which embeddings that names give to others are choices.

    Args:
        outcome: What the trees decided; it is changed.
        evidence: What is known of leaves.
    """
    for is_target, roles in ((True, evidence.ways.target_roles), (False, evidence.ways.source_roles)):
        drafts = [draft for draft in outcome.drafts if len(draft.source[-1].shape or ()) == 2]
        for draft in drafts:
            named, other = (draft.target, draft.source) if is_target else (draft.source, draft.target)
            kinds = {kind for kind, _ in roles.get(name_of(named), ())}
            if kinds != {_EMBEDDING} or _sounds_so(other):
                continue
            rival = next((rival for rival in drafts if _is_rival(rival, draft, is_target=is_target)), None)
            if rival is None or draft not in outcome.drafts or rival not in outcome.drafts:
                continue
            outcome.drafts = [one for one in outcome.drafts if one not in (draft, rival)]
            outcome.choices.append(_choice(draft, rival, evidence))
    return outcome


def _sounds_so(path: NodePath) -> bool:
    text = "".join(node.text for node in path).lower()
    return any(word in text for word in _WORDS)


def _is_rival(rival: Draft, draft: Draft, *, is_target: bool) -> bool:
    """Return whether another pair of as many elements has the name that the embedding's does not have."""
    other = rival.source if is_target else rival.target
    same = all(
        _size(one) == _size(two) for one, two in ((rival.source, draft.source), (rival.target, draft.target))
    )
    return rival is not draft and same and _sounds_so(other)


def _size(path: NodePath) -> int:
    return prod(path[-1].shape or ()) * prod(node.count for node in path)


def _choice(draft: Draft, rival: Draft, evidence: LeafEvidence) -> DraftChoice:
    ours, theirs = [draft.source, rival.source], [draft.target, rival.target]
    options = [
        (one, other, Outcome(drafts=[found]))
        for one in ours
        for other in theirs
        if (found := evidence.draft(one, other)) is not None
    ]
    return DraftChoice(ours, theirs, options, "the trees say one thing and the names of the layers another")

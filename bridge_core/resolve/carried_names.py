"""Boxes and separators of a framework's names, which the metadata carries through other layouts."""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core.resolve.interpretations import Role
from bridge_core.resolve.leaf_matching import Outcome
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.state import Key, StateMetadata

__all__ = ["box_of", "carried_boxes", "carried_separators"]


def box_of(layer: NeutralLayer, outcome: Outcome, role: Role, boxes: Mapping[Key, str]) -> Key:
    """Return the last part of a leaf's key that names the value in its box; empty if it is in none."""
    if not boxes:
        return ()
    keys, source = layer.group.keys, outcome.source.leaves.get(role)
    # A leaf that the source does not have is in a box if all others of its layer are.
    names = layer.leaves if source is None else (source.name,)
    of_layer = {boxes.get(keys[name], "") for name in names if name in keys}
    box = of_layer.pop() if len(of_layer) == 1 else ""
    return (box,) if box else ()


def carried_boxes(used: Mapping[Key, Key], boxes: Mapping[Key, str]) -> dict[Key, str]:
    """Return the boxes by target key; a target of tensors in different boxes is in none.

    ``used`` gives neutral keys their target keys.
    """
    of_target: dict[Key, set[str]] = {}
    for key, target in used.items() if boxes else ():
        of_target.setdefault(target, set()).add(boxes.get(key, ""))
    return {target: box for target, (box, *others) in of_target.items() if box and not others}


def carried_separators(metadata: StateMetadata, framework: str, own: str) -> dict[str, str]:
    """Return the separators of a target's metadata.

    ``own`` is that of the target's template; empty without one.
    """
    separators = {name: text for name, text in metadata.separators.items() if name}
    if own:
        separators[framework] = own
    return {name: text for name, text in separators.items() if text != "."}

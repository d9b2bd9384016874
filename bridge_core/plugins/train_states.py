"""The weights of a state that also holds an optimizer, counters and copies of the weights: a train state."""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core.errors import BridgeError, ConversionError
from bridge_core.plugins.framework import Framework, TrainStates, TreeNaming, WeightsChoice
from bridge_core.plugins.tree_names import SpecsByName, specs_without_boxes
from bridge_core.state import FlatState, Key, LeftOut, join_key, left_out_note

__all__ = ["branches_of", "weights_of"]


def weights_of(state: FlatState, framework: Framework | None, entry: str = "") -> FlatState:
    """Return a state with only its weights, under the names that a conversion sees.

    What is left out is in ``metadata.left_out``, and a note names it. Without a framework that knows train
    states, or if the state is none, nothing is left out.

    Args:
        state: In the framework's layout.
        framework: The framework's adapter; None if there is none.
        entry: Path of another copy of the weights, which is read in their place with the collections that it
            does not have. The state is returned unchanged where there is nothing to add to it.

    Raises:
        KeyConflict: The names do not show which branch holds the weights, or what another branch is.
        ConversionError: There are no weights, only the state of an optimizer.
    """
    if framework is None:
        return state
    try:
        choice, names = _choice(state, framework, entry)
    except ConversionError:
        if state.metadata.provenance.get("entry"):  # asked for, whatever it is
            return state
        raise
    if choice is None:
        return state
    keys = names.keys_by_name
    # A box's own part stays last.
    new = {keys[name]: (*to, *keys[name][len(name) :]) for name, to in choice.names.items()}
    left_out = _measured(choice.left_out, names, choice.copies, state.metadata.provenance.get("entry"))
    empty = tuple(path for path in state.metadata.empty if not _is_below(path, choice.left_out))
    whole = state.replace(metadata=state.metadata.with_(empty=empty))
    chosen = whole.select(new).rename(new)
    metadata = chosen.metadata
    tree_form, provenance, notes = dict(metadata.tree_form), dict(metadata.provenance), list(metadata.notes)
    if not choice.collections:
        tree_form.setdefault(framework.name, "params")
    wrapper = entry or join_key(choice.wrapper)
    if wrapper:
        provenance["entry"] = ".".join(filter(None, (provenance.get("entry"), wrapper)))
        added = sorted(
            {to[0] for name, to in choice.names.items() if name[: len(choice.wrapper)] != choice.wrapper}
        )
        more = f", with {' and '.join(added)} from next to it" if added else ""
        notes.append(f"the weights were read from the entry {wrapper!r}{more}")
    if left_out:
        notes.append(left_out_note(left_out))
    metadata = metadata.with_(
        tree_form=tree_form,
        provenance=provenance,
        notes=tuple(notes),
        left_out=(*metadata.left_out, *left_out),
        source_names={to: key for key, to in new.items() if key != to},
    )
    return chosen.replace(metadata=metadata)


def branches_of(state: FlatState, framework: Framework | None) -> tuple[LeftOut, ...]:
    """Return the branches of a train state; none for another state.

    Those with weights have no reason.

    Args:
        state: In the framework's layout.
        framework: The framework's adapter; None if there is none.
    """
    if framework is None:
        return ()
    try:
        choice, names = _choice(state, framework, "")
    except BridgeError:  # a conversion reports what is wrong
        return ()
    if choice is None:
        return ()
    wrapper = choice.wrapper
    depth = len(wrapper) + choice.collections
    weights = {name[:depth] if name[: len(wrapper)] == wrapper else name[:1]: "" for name in choice.names}
    return _measured({**weights, **choice.left_out}, names, choice.copies)


def _choice(state: FlatState, framework: Framework, entry: str) -> tuple[WeightsChoice | None, SpecsByName]:
    """Return what the adapter makes of a state, and the state's specs by the names that it was asked with."""
    recorded = state.metadata.tree_form.get(framework.name) in ("variables", "params")
    if recorded or not isinstance(framework, TrainStates):
        return None, SpecsByName(state, {})
    if isinstance(framework, TreeNaming):
        specs, _ = specs_without_boxes(state, framework)
    else:
        specs = SpecsByName(state, {key: key for key in state})
    try:
        return framework.choose_weights(specs, state.metadata, entry), specs
    except BridgeError as err:
        err.path = err.path or state.metadata.provenance.get("path")
        raise


def _measured(
    reasons: Mapping[Key, str], specs: SpecsByName, copies: frozenset[Key], entry: str | None = None
) -> tuple[LeftOut, ...]:
    """Return branches with the number and the bytes of their tensors; a tensor counts in the deepest.

    Args:
        reasons: Path of each branch -> what it is.
        specs: The specs of all tensors.
        copies: The branches that hold other weights.
        entry: The entry that the paths are below; None for the root.
    """
    start = f"{entry}." if entry else ""
    sizes = dict.fromkeys(reasons, (0, 0))
    depths = sorted({len(path) for path in reasons}, reverse=True)
    for name, spec in specs.items():
        path = next((name[:depth] for depth in depths if name[:depth] in sizes), None)
        if path is not None:
            number, nbytes = sizes[path]
            sizes[path] = number + 1, nbytes + spec.nbytes
    return tuple(
        LeftOut(start + join_key(path), reason, sizes[path][1], sizes[path][0], path in copies)
        for path, reason in reasons.items()
    )


def _is_below(path: Key, branches: Mapping[Key, str]) -> bool:
    return any(path[:depth] in branches for depth in range(1, len(path) + 1))

"""A live model's module types and ties, as evidence for a state."""

from __future__ import annotations

from bridge_core.errors import UsageError
from bridge_core.plugins import Registry
from bridge_core.resolve.grouping import group_state
from bridge_core.resolve.path_matching import match_paths
from bridge_core.state import FlatState, Key, ModuleInfo, Tensor, equal_values


def with_model_evidence(state: FlatState, model: FlatState, registry: Registry) -> FlatState:
    """Return the state with a live model's module types and ties as evidence.

    The model's names may differ from the state's by one uniform prefix. A tensor that the model ties and
    the state lacks is added as a tie.

    Args:
        state: The weights.
        model: The state of a live object of the same framework; its values are not used.
        registry: Where transforms are found.
    """
    framework = registry.framework(state.layout or "")
    transforms = registry.transforms_of.get(framework.name, ())
    groups = group_state(state, framework, transforms)
    wanted = group_state(model, framework, transforms)
    match = match_paths(groups, wanted)
    modules: dict[Key, ModuleInfo] = {}
    names: dict[Key, Key] = {}
    for path, target in match.targets.items():
        if target in model.metadata.modules:
            modules[path] = model.metadata.modules[target]
        for leaf, key in wanted[target].keys.items():
            if leaf in groups[path].keys:
                names[key] = groups[path].keys[leaf]
    tensors: dict[Key, Tensor] = dict(state.tensors())
    ties = dict(state.metadata.ties)
    groups_of_ties: dict[Key, list[Key]] = {}
    for alias, keeper in model.metadata.ties.items():
        groups_of_ties.setdefault(keeper, [keeper]).append(alias)
    for tied in groups_of_ties.values():
        kept = next((names[key] for key in tied if key in names), None)
        if kept is None:
            continue
        for key in tied:
            if key in names:
                other = names[key]
                if tensors[other] is not tensors[kept] and _agree(tensors[other], tensors[kept]):
                    tensors[other] = tensors[kept]
                    ties[other] = ties.get(kept, kept)
                continue
            added = match.removed + key if match.removed else key[len(match.added) :]
            tensors[added] = tensors[kept]
            ties[added] = ties.get(kept, kept)
            if key[:-1] in model.metadata.modules:
                modules[added[:-1]] = model.metadata.modules[key[:-1]]
    return state.replace(tensors=tensors, metadata=state.metadata.with_(modules=modules, ties=ties))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors hold the same values, as a file that keeps a tied tensor twice has them."""
    if one.spec != other.spec:
        return False
    try:
        return equal_values(one, other)
    except UsageError:  # nothing but shapes is known
        return False

"""A live model's module types and ties, as evidence for a state.

A file has names and shapes; the class that its weights belong to shows what the layers are.
"""

from __future__ import annotations

from bridge_core.errors import UsageError
from bridge_core.plugins import Registry
from bridge_core.resolve.grouping import group_state
from bridge_core.resolve.path_matching import match_paths
from bridge_core.state import FlatState, Key, ModuleInfo, Tensor, Ties, equal_values, module_path


def with_model_evidence(state: FlatState, model: FlatState, registry: Registry) -> FlatState:
    """Return the state with a live model's module types and ties as evidence.

    The model's names may differ from the state's by one uniform prefix. A tensor that the model ties and
    the state does not have is added as a tie.

    Args:
        state: The weights.
        model: The state of a live object of the same framework; its values are not used.
        registry: Where transforms are found.
    """
    framework = registry.framework(state.layout or "")
    transforms = registry.checked_transforms_of.get(framework.name, ())
    groups = group_state(state, framework, transforms)
    model_groups = group_state(model, framework, transforms)
    match = match_paths(groups, model_groups)
    modules: dict[Key, ModuleInfo] = {}
    state_keys: dict[Key, Key] = {}
    for path, target in match.targets.items():
        if target in model.metadata.modules:
            modules[path] = model.metadata.modules[target]
        for leaf, key in model_groups[target].keys.items():
            if leaf in groups[path].keys:
                state_keys[key] = groups[path].keys[leaf]
    tensors: dict[Key, Tensor] = dict(state.tensors())
    ties = dict(state.metadata.ties)
    state_ties = Ties(ties)
    for root, tied in Ties(model.metadata.ties).groups().items():
        present = next((state_keys[key] for key in (root, *tied) if key in state_keys), None)
        if present is None:
            continue
        canonical = state_ties.root(present)
        for key in (root, *tied):
            if key in state_keys:
                other = state_keys[key]
                if tensors[other] is not tensors[present] and _agree(tensors[other], tensors[present]):
                    tensors[other] = tensors[present]
                    ties[other] = canonical
                continue
            added = match.removed + key if match.removed else key[len(match.added) :]
            tensors[added] = tensors[present]
            ties[added] = canonical
            module = module_path(key)
            if module in model.metadata.modules:
                modules[module_path(added)] = model.metadata.modules[module]
    return state.replace(tensors=tensors, metadata=state.metadata.with_(modules=modules, ties=ties))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same values, as in a file that stores a tied tensor twice."""
    if one.spec != other.spec:
        return False
    try:
        return equal_values(one, other)
    except UsageError:  # only the shapes are known
        return False

"""Types of Flax's layers where its classes are gone, taken from the torch model of the same weights."""

from __future__ import annotations

from bridge_core import FlatState
from bridge_core.state import ModuleInfo

__all__ = ["with_flax_types"]

_FLAX_TYPES = {
    "transformers.pytorch_utils.Conv1D": "transformers.models.gpt2.modeling_flax_gpt2.FlaxConv1D",
}
"""torch's layer -> Flax's at the same path, if its names and shapes look like those of another layer."""


def with_flax_types(state: FlatState, torch_state: FlatState) -> FlatState:
    """Return a state in Flax's layout with the types of those layers that names and shapes would misread.

    Args:
        state: The Flax weights.
        torch_state: The state of the torch model that they belong to, module types included.
    """
    types = {
        path: _FLAX_TYPES[name]
        for path, info in torch_state.metadata.modules.items()
        for name in info.types
        if name in _FLAX_TYPES
    }
    suffixes = {path[cut:]: name for path, name in types.items() for cut in range(2)}
    modules = dict(state.metadata.modules)
    leaves: dict[tuple[str, ...], list[str]] = {}
    for key in state:
        leaves.setdefault(key[:-1], []).append(key[-1])
    for path, names in leaves.items():
        name = suffixes.get(path) or suffixes.get(path[1:])
        if name is not None:
            modules[path] = ModuleInfo((name,), {}, tuple(names))
    return state.replace(metadata=state.metadata.with_(modules=modules))

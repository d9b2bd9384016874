"""torch's recurrent layers as data: all input gates in one tensor, and all hidden gates in another.

The gates are one after the other along the first axis: the input, forget, cell and output gate of an LSTM;
the reset, update and new gate of a GRU. All layers of a recurrent stack are in one module; the names of their
tensors end in the number and the direction of the layer (``weight_ih_l0``, ``weight_ih_l1_reverse``), and the
adapter gives each layer a path of its own. The tensors of a single cell have no such ending.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from bridge_core import Key, LayerKind, LayerTransform, Leaf

__all__ = ["KINDS", "place_in_stack", "spell_in_stack", "TRANSFORMS"]

_GATES = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n"), "rnn": ("",)}
"""Kind -> its gates, in torch's order."""

_NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}

_INPUTS = {"ih": ("i", "in"), "hh": ("h", "state")}
"""torch's name for the input or hidden gates -> the first letter in the kind's, and their input axis."""

_STACK_LEAF = re.compile(r"((?:weight|bias)_(?:ih|hh|hr)_l)((?:0|[1-9]\d*)(?:_reverse)?)")
"""The name of a leaf in a stack without its layer, and the layer: its number, then its direction."""


KINDS = (
    LayerKind(
        "lstm_projection",
        {
            **{f"i{gate}.kernel": "in hidden" for gate in _GATES["lstm"]},
            **{f"i{gate}.bias": "hidden" for gate in _GATES["lstm"]},
            **{f"h{gate}.kernel": "state hidden" for gate in _GATES["lstm"]},
            **{f"h{gate}.bias": "hidden" for gate in _GATES["lstm"]},
            "projection.kernel": "hidden state",
        },
    ),
)
"""Layer kinds that only torch has: they have a neutral form, and can only be converted back to torch."""


def _recurrent(kind: str, *, stack: bool, projected: bool = False, unsupported: str = "") -> LayerTransform:
    """Return the transform of one layer of a stack, or of a cell.

    Without a projection the state has as many elements as there are hidden units. So the numbers of rows and
    columns determine the number of gates, and only one of the three kinds matches.
    """
    end = "_l" if stack else ""
    module = f"torch.nn.modules.rnn.{_NAMES[kind]}{'' if stack else 'Cell'}"
    gates = _GATES[kind]
    hidden = f"({' '.join(['hidden'] * len(gates))})" if len(gates) > 1 else "hidden"
    weights: list[Leaf] = []
    biases: list[Leaf] = []
    for side, (letter, axis) in _INPUTS.items():
        kernel, bias = (tuple(f"{letter}{gate}.{leaf}" for gate in gates) for leaf in ("kernel", "bias"))
        one = len(gates) == 1
        weights.append(Leaf(f"weight_{side}{end}", kernel[0] if one else kernel, f"{hidden} {axis}"))
        biases.append(Leaf(f"bias_{side}{end}", bias[0] if one else bias, hidden, optional=True))
    if projected:
        weights.append(Leaf(f"weight_hr{end}", "projection.kernel", "state hidden"))
    return LayerTransform(
        f"torch.{kind}{'_projection' if projected else ''}{'' if stack else '_cell'}",
        kind=f"{kind}_projection" if projected else kind,
        leaves=(*weights, *biases),
        modules=(module,),
        identifying_leaves=tuple(leaf.name for leaf in weights),
        equal_axes=() if projected else (("hidden", "state"),),
        unsupported=unsupported,
    )


_NO_PROJECTION = (
    "proj_size gives the LSTM a projection of its state (weight_hr); no cell of another framework has one"
)


TRANSFORMS = (
    *(_recurrent(kind, stack=stack) for kind in _GATES for stack in (True, False)),
    _recurrent("lstm", stack=True, projected=True, unsupported=_NO_PROJECTION),
)
"""A stack comes before the cell of its kind: it is written where a path ends in a number."""


def place_in_stack(key: Key, present: Collection[Key]) -> tuple[Key, str] | None:
    """Return the path and the leaf name of a layer in a recurrent stack; None for any other key.

    >>> place_in_stack(("weight_ih_l1",), {("weight_ih_l1",), ("weight_hh_l1",)})
    (('1',), 'weight_ih_l')
    """
    # This text is in few names, and looking for it is faster than a pattern.
    match = _STACK_LEAF.fullmatch(key[-1]) if key and "_l" in key[-1] else None
    if match is None:
        return None
    stack, (leaf, layer) = key[:-1], match.groups()
    if any((*stack, f"{needed}_l{layer}") not in present for needed in ("weight_ih", "weight_hh")):
        return None
    return (*stack, layer), leaf


def spell_in_stack(path: Key, leaf: str) -> Key | None:
    """Return the key of a leaf of a layer in a recurrent stack, the inverse of `place_in_stack`.

    None for any other leaf. A path that does not end in the number of a layer is that of a cell.

    >>> spell_in_stack(("lstm", "1_reverse"), "weight_ih_l")
    ('lstm', 'weight_ih_l1_reverse')
    >>> spell_in_stack(("cell",), "weight_ih_l")
    ('cell', 'weight_ih')
    """
    if "_l" not in leaf or _STACK_LEAF.fullmatch(f"{leaf}0") is None:
        return None
    layer = path[-1] if path else ""
    numbered = _STACK_LEAF.fullmatch(leaf + layer) is not None
    return (*path[:-1], leaf + layer) if numbered else (*path, leaf.removesuffix("_l"))

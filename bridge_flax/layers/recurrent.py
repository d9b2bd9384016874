"""Flax's recurrent cells as data.

Linen's cells hold one small dense layer for each gate and side; some of NNX's hold all gates of a side in
one. Where the two sides of a gate are summed, Flax has one bias and other frameworks have two: their values
are added.
"""

from __future__ import annotations

from bridge_core import LayerTransform, Leaf

__all__ = ["TRANSFORMS"]

_LINEN = "flax.linen.recurrent"

_NNX = "flax.nnx.nn.recurrent"

_LSTM, _GRU = ("i", "f", "g", "o"), ("r", "z", "n")

_NO_STATE_BIAS = (
    "nnx.GRUCell has no bias on the state's side of the new gate, and the reset gate scales only that side, "
    "so no other bias can replace it. Use Linen's GRUCell, or allow the key as unexpected if it is zero"
)


def _kernels(
    gates: tuple[str, ...], *, states: tuple[str, ...] = ("i", "h"), renamed: dict[str, str] | None = None
) -> tuple[Leaf, ...]:
    """Return one kernel for each gate on the side of the input and on that of the state."""
    axes = {"i": "in hidden", "h": "state hidden"}
    return tuple(
        Leaf(f"{(renamed or {}).get(side + gate, side + gate)}.kernel", f"{side}{gate}.kernel", axes[side])
        for side in states
        for gate in gates
    )


def _summed(side: str, gates: tuple[str, ...]) -> tuple[Leaf, ...]:
    """Return the bias of each gate on one side, into which that of the other side is added."""
    other = {"i": "h", "h": "i"}[side]
    return tuple(
        Leaf(f"{side}{gate}.bias", f"{side}{gate}.bias", "hidden", added_leaves=(f"{other}{gate}.bias",))
        for gate in gates
    )


def _fused(side: str, gates: tuple[str, ...]) -> Leaf:
    """Return the kernels of one side of every gate in one tensor."""
    axis = {"i": "in", "h": "state"}[side]
    roles = tuple(f"{side}{gate}.kernel" for gate in gates)
    return Leaf(f"dense_{side}.kernel", roles, f"{axis} ({' '.join(['hidden'] * len(gates))})")


def _fused_bias(side: str, gates: tuple[str, ...], added: tuple[str, ...]) -> Leaf:
    """Return the biases of one side of every gate in one tensor, with what is added to each."""
    roles = tuple(f"{side}{gate}.bias" for gate in gates)
    return Leaf(f"dense_{side}.bias", roles, f"({' '.join(['hidden'] * len(gates))})", added_leaves=added)


def _cell(
    name: str,
    kind: str,
    modules: tuple[str, ...],
    leaves: tuple[Leaf, ...],
    unsupported_leaves: dict[str, str] | None = None,
) -> LayerTransform:
    return LayerTransform(
        f"flax.{name}",
        kind=kind,
        leaves=leaves,
        modules=modules,
        identifying_leaves=tuple(leaf.name for leaf in leaves),
        equal_axes=(("hidden", "state"),),
        unsupported_leaves=unsupported_leaves or {},
    )


TRANSFORMS = (
    _cell(
        "lstm_cell",
        "lstm",
        (f"{_LINEN}.LSTMCell", f"{_LINEN}.OptimizedLSTMCell"),
        (*_kernels(_LSTM), *_summed("h", _LSTM)),
    ),
    _cell(
        "nnx_lstm_cell",
        "lstm",
        (f"{_NNX}.LSTMCell",),
        (*_kernels(_LSTM, renamed={"if": "if_"}), *_summed("h", _LSTM)),
    ),
    _cell(
        "nnx_optimized_lstm_cell",
        "lstm",
        (f"{_NNX}.OptimizedLSTMCell",),
        (
            _fused("i", _LSTM),
            _fused("h", _LSTM),
            _fused_bias("h", _LSTM, tuple(f"i{gate}.bias" for gate in _LSTM)),
        ),
    ),
    _cell(
        "gru_cell",
        "gru",
        (f"{_LINEN}.GRUCell",),
        (
            *_kernels(_GRU),
            *_summed("i", ("r", "z")),
            Leaf("in.bias", "in.bias", "hidden"),
            Leaf("hn.bias", "hn.bias", "hidden"),
        ),
    ),
    _cell(
        "nnx_gru_cell",
        "gru",
        (f"{_NNX}.GRUCell",),
        (_fused("i", _GRU), _fused("h", _GRU), _fused_bias("i", _GRU, ("hr.bias", "hz.bias", ""))),
        unsupported_leaves={"hn.bias": _NO_STATE_BIAS},
    ),
    _cell(
        "simple_cell",
        "rnn",
        (f"{_LINEN}.SimpleCell",),
        (*_kernels(("",)), *_summed("i", ("",))),
    ),
    _cell(
        "nnx_simple_cell",
        "rnn",
        (f"{_NNX}.SimpleCell",),
        (
            Leaf("dense_i.kernel", "i.kernel", "in hidden"),
            Leaf("dense_h.kernel", "h.kernel", "state hidden"),
            Leaf("dense_i.bias", "i.bias", "hidden", added_leaves=("h.bias",)),
        ),
    ),
)
"""Where two share a kind, the usual one comes first."""

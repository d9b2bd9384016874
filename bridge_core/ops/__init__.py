"""The op algebra: invertible moves of tensors, as frozen data."""

from bridge_core.ops.base import Op, Pull
from bridge_core.ops.chains import (
    Lanes,
    OpTensor,
    chain_specs,
    chain_tensors,
    inverse_chain,
    simplify_chain,
)
from bridge_core.ops.joins import Concat, Order, Split, Stack, Unstack
from bridge_core.ops.moves import Flip, Permute, Reshape
from bridge_core.ops.values import Cast, Copy, Drop, Fill, Same

__all__ = [
    "Cast",
    "Concat",
    "Copy",
    "Drop",
    "Fill",
    "Flip",
    "Lanes",
    "Op",
    "OpTensor",
    "Order",
    "Permute",
    "Pull",
    "Reshape",
    "Same",
    "Split",
    "Stack",
    "Unstack",
    "chain_specs",
    "chain_tensors",
    "inverse_chain",
    "simplify_chain",
]

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
from bridge_core.ops.moves import Flip, Permute, Reshape, axis_groups
from bridge_core.ops.padding import Offset, Pad, Unpad
from bridge_core.ops.sums import NOTHING, Pick, Sum, Unsum, WithZeros
from bridge_core.ops.values import Cast, Copy, Drop, Fill, Same

__all__ = [
    "NOTHING",
    "Cast",
    "Concat",
    "Copy",
    "Drop",
    "Fill",
    "Flip",
    "Lanes",
    "Offset",
    "Op",
    "OpTensor",
    "Order",
    "Pad",
    "Permute",
    "Pick",
    "Pull",
    "Reshape",
    "Same",
    "Split",
    "Stack",
    "Sum",
    "Unpad",
    "Unstack",
    "Unsum",
    "WithZeros",
    "axis_groups",
    "chain_specs",
    "chain_tensors",
    "inverse_chain",
    "simplify_chain",
]

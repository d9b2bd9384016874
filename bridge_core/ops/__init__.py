"""Invertible operations on tensors, as frozen data."""

from typing import TYPE_CHECKING

from bridge_core.lazy import exports

if TYPE_CHECKING:
    from bridge_core.ops.base import Op as Op
    from bridge_core.ops.chain import Lanes as Lanes
    from bridge_core.ops.chain import OpTensor as OpTensor
    from bridge_core.ops.chain import chain_specs as chain_specs
    from bridge_core.ops.chain import chain_tensors as chain_tensors
    from bridge_core.ops.chain import inverse_chain as inverse_chain
    from bridge_core.ops.chain import simplify_chain as simplify_chain
    from bridge_core.ops.constants import NEGATIVE_ZERO as NEGATIVE_ZERO
    from bridge_core.ops.constants import dtype_holds as dtype_holds
    from bridge_core.ops.elementwise import Cast as Cast
    from bridge_core.ops.elementwise import Offset as Offset
    from bridge_core.ops.padding import Pad as Pad
    from bridge_core.ops.padding import Unpad as Unpad
    from bridge_core.ops.select import Copy as Copy
    from bridge_core.ops.select import Drop as Drop
    from bridge_core.ops.select import Fill as Fill
    from bridge_core.ops.select import Order as Order
    from bridge_core.ops.select import Pick as Pick
    from bridge_core.ops.select import Same as Same
    from bridge_core.ops.select import WithZeros as WithZeros
    from bridge_core.ops.shape import Flip as Flip
    from bridge_core.ops.shape import Permute as Permute
    from bridge_core.ops.shape import Reshape as Reshape
    from bridge_core.ops.shape import axis_groups as axis_groups
    from bridge_core.ops.split_concat import Concat as Concat
    from bridge_core.ops.split_concat import Split as Split
    from bridge_core.ops.split_concat import Stack as Stack
    from bridge_core.ops.split_concat import Unstack as Unstack
    from bridge_core.ops.summing import Sum as Sum
    from bridge_core.ops.summing import Unsum as Unsum
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "base": "Op",
            "chain": "Lanes OpTensor chain_specs chain_tensors inverse_chain simplify_chain",
            "constants": "NEGATIVE_ZERO dtype_holds",
            "elementwise": "Cast Offset",
            "padding": "Pad Unpad",
            "select": "Copy Drop Fill Order Pick Same WithZeros",
            "shape": "Flip Permute Reshape axis_groups",
            "split_concat": "Concat Split Stack Unstack",
            "summing": "Sum Unsum",
        },
    )

"""Invertible operations on tensors, as frozen data."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.ops.array_ops import ArrayOps as ArrayOps
    from bridge_core.ops.base import InputRegion as InputRegion, Op as Op
    from bridge_core.ops.chain import (
        OpTensor as OpTensor,
        Parallel as Parallel,
        chain_specs as chain_specs,
        chain_tensors as chain_tensors,
        emit_chain as emit_chain,
        inverse_chain as inverse_chain,
        simplify_chain as simplify_chain,
    )
    from bridge_core.ops.constants import NEGATIVE_ZERO as NEGATIVE_ZERO, dtype_holds as dtype_holds
    from bridge_core.ops.elementwise import Cast as Cast, Offset as Offset, Scale as Scale
    from bridge_core.ops.equal_tensors import (
        Made as Made,
        equal_or_refused as equal_or_refused,
        made_by as made_by,
    )
    from bridge_core.ops.nan_bits import (
        NanRule as NanRule,
        SumRule as SumRule,
        nan_rule as nan_rule,
        sum_rule as sum_rule,
    )
    from bridge_core.ops.overflow import OverflowCount as OverflowCount
    from bridge_core.ops.padding import Pad as Pad, Unpad as Unpad
    from bridge_core.ops.select import (
        Drop as Drop,
        Duplicate as Duplicate,
        Fill as Fill,
        InsertZeros as InsertZeros,
        Reorder as Reorder,
        RequireEqual as RequireEqual,
        Select as Select,
    )
    from bridge_core.ops.shape import (
        Flip as Flip,
        Permute as Permute,
        Reshape as Reshape,
        axis_groups as axis_groups,
    )
    from bridge_core.ops.split_concat import (
        Concat as Concat,
        Split as Split,
        Stack as Stack,
        Unstack as Unstack,
    )
    from bridge_core.ops.summing import SplitSum as SplitSum, Sum as Sum
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "array_ops": "ArrayOps",
            "base": "InputRegion Op",
            "equal_tensors": "Made equal_or_refused made_by",
            "chain": "Parallel OpTensor chain_specs chain_tensors emit_chain inverse_chain simplify_chain",
            "constants": "NEGATIVE_ZERO dtype_holds",
            "elementwise": "Cast Offset Scale",
            "nan_bits": "NanRule SumRule nan_rule sum_rule",
            "overflow": "OverflowCount",
            "padding": "Pad Unpad",
            "select": "Drop Duplicate Fill InsertZeros Reorder RequireEqual Select",
            "shape": "Flip Permute Reshape axis_groups",
            "split_concat": "Concat Split Stack Unstack",
            "summing": "SplitSum Sum",
        },
        moved={
            "Lanes": "bridge_core.ops:Parallel",
            "Order": "bridge_core.ops:Reorder",
            "Pick": "bridge_core.ops:Select",
            "Copy": "bridge_core.ops:Duplicate",
            "Same": "bridge_core.ops:RequireEqual",
            "Unsum": "bridge_core.ops:SplitSum",
            "WithZeros": "bridge_core.ops:InsertZeros",
            "Pull": "bridge_core.ops:InputRegion",
            "NOTHING": "bridge_core.ops:NEGATIVE_ZERO",
        },
    )

"""Axis notation: names for axes, equations between tensors, calls of ops, and arithmetic on sizes."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.axes.bounded_indexes import bounded_pairs as bounded_pairs
    from bridge_core.axes.call_ops import op_of_call as op_of_call
    from bridge_core.axes.calls import Call as Call, parse_ops as parse_ops
    from bridge_core.axes.equation import (
        ELLIPSIS as ELLIPSIS,
        Equation as Equation,
        ListAxes as ListAxes,
        Term as Term,
    )
    from bridge_core.axes.expressions import (
        Comparison as Comparison,
        Expression as Expression,
        Lookup as Lookup,
        Value as Value,
        whole_number as whole_number,
    )
    from bridge_core.axes.indexes import (
        IndexCount as IndexCount,
        IndexEquation as IndexEquation,
        MixedRadix as MixedRadix,
        Pairs as Pairs,
        Ranks as Ranks,
        parse_index as parse_index,
    )
    from bridge_core.axes.layout import Layout as Layout, layout_ops as layout_ops
    from bridge_core.axes.leaf_axes import (
        Axis as Axis,
        Binding as Binding,
        Shape as Shape,
        bind as bind,
        bind_axes as bind_axes,
        parse_axes as parse_axes,
    )
    from bridge_core.axes.part_order import check_part_order as check_part_order
    from bridge_core.axes.rearrangement import (
        Rearrangement as Rearrangement,
        rearrange as rearrange,
    )
    from bridge_core.axes.size_lookup import (
        SizeLookup as SizeLookup,
        config_entry as config_entry,
        parse_sizes as parse_sizes,
    )
    from bridge_core.axes.structure import check_equation as check_equation
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "bounded_indexes": "bounded_pairs",
            "call_ops": "op_of_call",
            "calls": "Call parse_ops",
            "equation": "ELLIPSIS Equation ListAxes Term",
            "expressions": "Comparison Expression Lookup Value whole_number",
            "indexes": "IndexCount IndexEquation MixedRadix Pairs Ranks parse_index",
            "layout": "Layout layout_ops",
            "leaf_axes": "Axis Binding Shape bind bind_axes parse_axes",
            "part_order": "check_part_order",
            "rearrangement": "Rearrangement rearrange",
            "size_lookup": "SizeLookup config_entry parse_sizes",
            "structure": "check_equation",
        },
    )

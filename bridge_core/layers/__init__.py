"""Layer kinds, and how each framework stores them."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.layers.kinds import KINDS as KINDS
    from bridge_core.layers.kinds import LayerKind as LayerKind
    from bridge_core.layers.leaf_ops import Factors as Factors
    from bridge_core.layers.leaf_ops import cut_of as cut_of
    from bridge_core.layers.leaf_ops import from_neutral_ops as from_neutral_ops
    from bridge_core.layers.leaf_ops import part_shape as part_shape
    from bridge_core.layers.leaf_ops import to_neutral_ops as to_neutral_ops
    from bridge_core.layers.transforms import LayerTransform as LayerTransform
    from bridge_core.layers.transforms import Leaf as Leaf
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "kinds": "KINDS LayerKind",
            "leaf_ops": "Factors cut_of from_neutral_ops part_shape to_neutral_ops",
            "transforms": "LayerTransform Leaf",
        },
    )

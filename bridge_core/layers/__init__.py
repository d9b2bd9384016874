"""Layer kinds, and how each framework stores them."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.layers.custom import CustomLayer as CustomLayer, custom_layer as custom_layer
    from bridge_core.layers.fitting import (
        agrees as agrees,
        describes as describes,
        fits as fits,
        leaves_of as leaves_of,
        same_order as same_order,
        splits_agree as splits_agree,
        stated_splits as stated_splits,
        usual_transforms as usual_transforms,
    )
    from bridge_core.layers.kinds import KINDS as KINDS, LayerKind as LayerKind
    from bridge_core.layers.leaf_ops import (
        Factors as Factors,
        cut_of as cut_of,
        from_neutral_ops as from_neutral_ops,
        part_shape as part_shape,
        to_neutral_ops as to_neutral_ops,
    )
    from bridge_core.layers.leaf_parts import part_ops as part_ops
    from bridge_core.layers.transform_checks import check_transforms as check_transforms
    from bridge_core.layers.transforms import LayerTransform as LayerTransform, Leaf as Leaf
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "custom": "CustomLayer custom_layer",
            "fitting": "agrees describes fits leaves_of same_order splits_agree stated_splits "
            "usual_transforms",
            "kinds": "KINDS LayerKind",
            "leaf_ops": "Factors cut_of from_neutral_ops part_shape to_neutral_ops",
            "leaf_parts": "part_ops",
            "transform_checks": "check_transforms",
            "transforms": "LayerTransform Leaf",
        },
    )

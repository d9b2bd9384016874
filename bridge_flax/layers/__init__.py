"""How Flax stores each layer kind, as data."""

from bridge_flax.layers import attention, basic, recurrent

__all__ = ["COLLECTIONS", "TRANSFORMS"]

COLLECTIONS = {"params": (), "batch_stats": ("mean", "var", "u", "sigma")}
"""Variable collection -> the roles of the leaves in it; the first collection has all the others."""

TRANSFORMS = (*basic.TRANSFORMS, *attention.TRANSFORMS, *recurrent.TRANSFORMS)
"""Every transform of Flax; where two share a kind, the usual one comes first."""

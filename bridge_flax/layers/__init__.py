"""How Flax stores each layer kind, as data."""

from bridge_flax.layers import attention, basic, recurrent

__all__ = ["TRANSFORMS"]

TRANSFORMS = (*basic.TRANSFORMS, *attention.TRANSFORMS, *recurrent.TRANSFORMS)
"""Every transform of Flax; where two share a kind, the usual one comes first."""

"""How torch stores each layer kind, as data."""

from bridge_torch.layers import attention, basic, recurrent
from bridge_torch.layers.recurrent import place_in_stack, spell_in_stack

__all__ = ["KINDS", "place_in_stack", "spell_in_stack", "TRANSFORMS"]

KINDS = (*basic.KINDS, *attention.KINDS, *recurrent.KINDS)
"""Layer kinds that only torch has."""

TRANSFORMS = (*basic.TRANSFORMS, *attention.TRANSFORMS, *recurrent.TRANSFORMS)
"""Every transform of torch; of two for one kind, the first is what is written without a template."""

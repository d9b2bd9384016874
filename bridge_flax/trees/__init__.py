"""Live Flax objects to flat states and back. Only this package imports JAX and Flax."""

from bridge_flax.trees.flatten import build, state_of
from bridge_flax.trees.make_template import make_template

__all__ = ["build", "make_template", "state_of"]

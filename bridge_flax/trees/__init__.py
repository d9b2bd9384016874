"""Live Flax objects to flat states and back, and running them. Only this package imports JAX and Flax."""

from bridge_flax.trees.flatten import build, state_of
from bridge_flax.trees.loading import LeafReader
from bridge_flax.trees.make_template import make_template
from bridge_flax.trees.running import model_weights, run_model
from bridge_flax.trees.saving import is_on_other_hosts, save_together
from bridge_flax.trees.settings import model_settings

__all__ = [
    "LeafReader",
    "build",
    "is_on_other_hosts",
    "make_template",
    "model_settings",
    "model_weights",
    "run_model",
    "save_together",
    "state_of",
]

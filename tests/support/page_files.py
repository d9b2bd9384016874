"""Files that pages of the documentation need and do not make themselves."""

from __future__ import annotations

import numpy as np

from bridge_core import FlatState, save_state

__all__ = ["FILES"]


def vision_model():
    """A vision transformer of five tensors."""
    shapes = {"stem.weight": (8, 3, 4, 4), "stem.bias": 8, "cls_token": (1, 1, 8)}
    shapes |= {"head.weight": (5, 8), "head.bias": 5}
    save_state({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, "vit.safetensors")


def linear_model():
    """A linear layer, and a file in the place of its conversion."""
    weights = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.ones(3, np.float32)}
    for name in ("model.safetensors", "out.msgpack"):
        save_state(FlatState(weights, layout="torch"), name)


FILES = {"README.md": vision_model, "docs/errors.md": linear_model, "docs/remote.md": linear_model}
"""Page -> the function that makes what it needs, in the current folder."""

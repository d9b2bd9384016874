"""Weights of vision models, written under the names of both sides at once, layer by layer."""

from __future__ import annotations

import numpy as np

__all__ = ["Both", "KERAS", "LINEN", "TORCH"]

TORCH = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
LINEN = {
    "kernel": "params/{}/kernel",
    "scale": "params/{}/scale",
    "bias": "params/{}/bias",
    "mean": "batch_stats/{}/mean",
    "var": "batch_stats/{}/var",
}
KERAS = {
    "kernel": "{}/kernel:0",
    "scale": "{}/gamma:0",
    "bias": "{}/beta:0",
    "mean": "{}/moving_mean:0",
    "var": "{}/moving_variance:0",
}


class Both:
    """The weights of one model, as torch has them and as trees have them.

    Args:
        leaves: What a leaf of a layer is called in trees.
        counters: Whether the tree is Haiku's, or another that counts batches.
    """

    def __init__(self, leaves=LINEN, seed=0):
        self.source, self.target = {}, {}
        self.leaves = leaves
        self._random = np.random.default_rng(seed)

    def values(self, *shape, positive=False):
        values = self._random.standard_normal(shape).astype(np.float32)
        return np.abs(values) + np.float32(0.5) if positive else values

    def put(self, leaf, torch, tree, value, there=None):
        self.source[f"{torch}.{TORCH[leaf]}"] = value
        self.target[self.leaves[leaf].format(tree)] = np.array(value if there is None else there, order="C")

    def conv(self, torch, tree, out, into, size=1, *, bias=False):
        size = size if isinstance(size, tuple) else (size, size)
        value = self.values(out, into, *size)
        self.put("kernel", torch, tree, value, value.transpose(2, 3, 1, 0))
        if bias:
            self.put("bias", torch, tree, self.values(out))

    def dense(self, torch, tree, out, into):
        value = self.values(out, into)
        self.put("kernel", torch, tree, value, value.T)
        self.put("bias", torch, tree, self.values(out))

    def norm(self, torch, tree, size):
        self.put("scale", torch, tree, self.values(size))
        self.put("bias", torch, tree, self.values(size))

    def batch_norm(self, torch, tree, size):
        self.norm(torch, tree, size)
        self.put("mean", torch, tree, self.values(size))
        self.put("var", torch, tree, self.values(size, positive=True))
        self.source[f"{torch}.num_batches_tracked"] = np.zeros((), np.int64)

    @property
    def counters(self):
        """The names of torch that trees do not have."""
        return frozenset(name for name in self.source if name.endswith("num_batches_tracked"))

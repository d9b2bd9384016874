"""Random sequences of layers as two models, torch's and Flax's, whose outputs can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flax import linen

__all__ = ["draw_sequence", "Sequence"]


@dataclass(frozen=True)
class Sequence:
    """One model in both frameworks.

    Args:
        kinds: Names of its layers.
        torch: The torch model, with random weights.
        flax: The Linen model of the same layers, by number.
        inputs: For Flax: channels come last.
    """

    kinds: tuple[str, ...]
    torch: torch.nn.Sequential
    flax: linen.Module
    inputs: np.ndarray

    def torch_outputs(self) -> np.ndarray:
        inputs = torch.from_numpy(self.inputs)
        if self.inputs.ndim > 2:
            inputs = inputs.movedim(-1, 1)
        with torch.no_grad():
            found = self.torch(inputs)
        return (found.movedim(1, -1) if self.inputs.ndim > 2 else found).numpy()

    def flax_outputs(self, tree: Any) -> np.ndarray:
        variables = tree if tree.keys() & {"params", "batch_stats"} else {"params": tree}
        return np.asarray(self.flax.apply(variables, self.inputs))


class _Layers(linen.Module):
    """Runs layers in order; each gets its number as its name."""

    layers: tuple[Any, ...]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        for number, layer in enumerate(self.layers):
            kind, options = layer
            x = getattr(linen, kind)(name=str(number), **options)(x)
        return x


def draw_sequence(rng: np.random.Generator) -> Sequence:
    """Return a random sequence: of dense layers on vectors, or of convolutions on maps."""
    rank = int(rng.integers(0, 3))
    width = 4
    made: list[torch.nn.Module] = []
    layers: list[Any] = []
    for _ in range(int(rng.integers(2, 6))):
        new = int(rng.choice([4, 4, 4, 6]))
        module, layer = _layer(rng, rank, width, new)
        made.append(module)
        layers.append(layer)
        width = new if layer[0] in ("Dense", "Conv", "ConvTranspose") else width
    model = torch.nn.Sequential(*made).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                numbers = rng.normal(size=tuple(value.shape)) / np.sqrt(max(1, value.numel() / len(value)))
                value.copy_(torch.from_numpy(np.abs(numbers) + 0.5 if name.endswith("var") else numbers))
    inputs = rng.normal(size=(2, *(8,) * rank, 4)).astype(np.float32)
    return Sequence(tuple(kind for kind, _ in layers), model, _Layers(tuple(layers)), inputs)


def _layer(rng: np.random.Generator, rank: int, width: int, new: int) -> tuple[torch.nn.Module, Any]:
    nn, bias = torch.nn, bool(rng.random() < 0.6)
    choice = int(rng.integers(4 if rank else 3))
    if choice == 0 and not rank:
        return nn.Linear(width, new, bias=bias), ("Dense", {"features": new, "use_bias": bias})
    if choice == 0:
        groups = 2 if rng.random() < 0.3 else 1
        conv = getattr(nn, f"Conv{rank}d")(width, new, 3, padding=1, groups=groups, bias=bias)
        options = {"padding": 1, "feature_group_count": groups, "use_bias": bias}
        return conv, ("Conv", {"features": new, "kernel_size": (3,) * rank, **options})
    if choice == 3:
        up = getattr(nn, f"ConvTranspose{rank}d")(width, new, 2, stride=2, bias=bias)
        options = {"strides": (2,) * rank, "padding": "VALID", "use_bias": bias}
        return up, ("ConvTranspose", {"features": new, "kernel_size": (2,) * rank, **options})
    if choice == 1:
        affine = bool(rng.random() < 0.7)
        norm = getattr(nn, f"BatchNorm{rank or 1}d")(width, affine=affine)
        options = {"use_running_average": True, "epsilon": 1e-5, "use_scale": affine, "use_bias": affine}
        return norm, ("BatchNorm", options)
    if rank:
        return nn.GroupNorm(2, width), ("GroupNorm", {"num_groups": 2, "epsilon": 1e-5})
    return nn.LayerNorm(width, bias=bias), ("LayerNorm", {"epsilon": 1e-5, "use_bias": bias})

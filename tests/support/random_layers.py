"""Random layers with their own truth: what torch, the neutral form and Flax hold, worked out with numpy.

Nothing here uses the bridge. Most sizes are equal on purpose: shapes alone then say as little as possible.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrizations, weight_norm

__all__ = [
    "Arrays",
    "dense",
    "draw_tied",
    "Layer",
    "Numbers",
    "Path",
    "quiet",
    "simple",
    "STANDARD",
    "Tree",
    "turned",
]

Path = tuple[str, ...]
Arrays = dict[str, np.ndarray]
Tree = dict[Path, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """One layer, or the tensors that a container has of its own.

    Args:
        kind: What it is.
        module: The torch module, filled with numbers; None for a container's own tensors.
        torch: Leaf name in the state dict -> values.
        flax: The trees that are right in Flax; none where nothing is.
        neutral: The neutral tensors; None where the layer has no neutral form of its own.
        links: (torch, neutral, Flax) names of leaves that go one to one; empty where leaves are merged.
        stats: The leaves of Flax that are in batch_stats.
        typed: Whether the module's type says all that a conversion needs.
        own: Whether these are tensors that no layer claims, copied unchanged.
        marked: Whether an own tensor has a name that layers have, so that it may not cross unasked.
        back: What torch may hold when the layer comes from a bare Flax tree, if that is not ``torch``.
        auxiliary: Leaves of torch that other frameworks have no place for.
        hidden: Whether names and shapes alone look like a layer which this is not.
        linen: Runs the Linen layer of that name, to be called inside a compact module.
    """

    kind: str
    module: Any
    torch: Arrays
    flax: tuple[Tree, ...] = ()
    neutral: Tree | None = None
    links: tuple[tuple[str, Path, Path], ...] = ()
    stats: frozenset[Path] = frozenset()
    typed: bool = True
    own: bool = False
    marked: bool = False
    back: tuple[Arrays, ...] = ()
    auxiliary: tuple[str, ...] = ()
    hidden: bool = False
    linen: Callable[[str], Any] | None = None

    @property
    def has_no_bias(self) -> bool:
        """Whether it is a recurrent layer without the biases that Flax's cells have."""
        return self.kind == "recurrent" and not any(name.startswith("bias") for name in self.torch)


class Numbers:
    """Distinct numbers, model-wide, whose sums are exact in float32.

    Args:
        rng: Where order and sizes come from.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._count = 0

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        values = self.rng.permutation(count) + self._count - 500
        self._count += count
        return (values / 4096).astype(np.float32).reshape(shape)

    def size(self) -> int:
        return int(self.rng.choice([4, 4, 4, 4, 6, 8]))

    def flag(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def fill(self, module: Any) -> Arrays:
        """Fill a module's state and return it."""
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if not value.is_floating_point():
                    value.fill_(3)
                    continue
                array = self.array(tuple(value.shape))
                if name.endswith(("running_var", "weight_g", "original0")):
                    array = np.abs(array) + np.float32(0.5)
                value.copy_(torch.from_numpy(array))
        return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def turned(weight: np.ndarray) -> np.ndarray:
    """Return torch's ``out in *k`` as ``*k in out``."""
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def _unturned(weight: np.ndarray) -> np.ndarray:
    """Return a transposed convolution's ``in out *k`` as ``*k in out`` with its taps the other way round."""
    spatial = tuple(range(2, weight.ndim))
    return np.flip(weight, spatial).transpose(*spatial, 0, 1)


def simple(
    kind: str,
    module: Any,
    state: Arrays,
    names: Mapping[str, str],
    *,
    turn: Callable[[np.ndarray], np.ndarray] = lambda value: value,
    **options: Any,
) -> Layer:
    """Return a layer whose leaves go one to one; the first is the one that is turned."""
    first = next(iter(names))
    tree = {
        (new,): turn(state[old]) if old == first else state[old] for old, new in names.items() if old in state
    }
    links = tuple((old, (new,), (new,)) for old, new in names.items() if old in state)
    return Layer(kind, module, state, (tree,), dict(tree), links, **options)


def dense(rows: int, columns: int, *, bias: bool) -> Callable[[str], Any]:
    """Return what runs a Linen layer of that size."""
    return lambda name: _nn().Dense(rows, use_bias=bias, name=name)(_zeros(1, columns))


def _linear(n: Numbers) -> Layer:
    rows, columns, bias = n.size(), n.size(), n.flag()
    module = torch.nn.Linear(columns, rows, bias=bias)
    names, linen = {"weight": "kernel", "bias": "bias"}, dense(rows, columns, bias=bias)
    return simple("linear", module, n.fill(module), names, turn=turned, linen=linen)


def _embedding(n: Numbers) -> Layer:
    count, width = n.size(), n.size()
    module = torch.nn.Embedding(count, width)

    def linen(name: str) -> Any:
        return _nn().Embed(count, width, name=name)(_zeros(1).astype("int32"))

    return simple("embedding", module, n.fill(module), {"weight": "embedding"}, linen=linen)


def _conv(n: Numbers) -> Layer:
    rank, bias = int(n.rng.integers(1, 4)), n.flag(0.6)
    width = n.size()
    groups = int(n.rng.choice([1, 1, 2, width]))
    inputs = width if groups > 1 or n.flag() else n.size()
    taps = tuple(int(n.rng.choice([1, 3, 4])) for _ in range(rank))
    module = getattr(torch.nn, f"Conv{rank}d")(inputs, width, taps, groups=groups, bias=bias)

    def linen(name: str) -> Any:
        layer = _nn().Conv(width, taps, feature_group_count=groups, use_bias=bias, name=name)
        return layer(_zeros(1, *(6,) * rank, inputs))

    return simple(
        "conv", module, n.fill(module), {"weight": "kernel", "bias": "bias"}, turn=turned, linen=linen
    )


def _conv_transpose(n: Numbers) -> Layer:
    rank, bias = int(n.rng.integers(1, 4)), n.flag(0.6)
    inputs, outputs = n.size(), n.size()
    taps = tuple(int(n.rng.choice([2, 3])) for _ in range(rank))
    module = getattr(torch.nn, f"ConvTranspose{rank}d")(inputs, outputs, taps, bias=bias)

    def linen(name: str) -> Any:
        return _nn().ConvTranspose(outputs, taps, use_bias=bias, name=name)(_zeros(1, *(6,) * rank, inputs))

    names = {"weight": "kernel", "bias": "bias"}
    return simple("conv_transpose", module, n.fill(module), names, turn=_unturned, linen=linen)


def _norm(n: Numbers) -> Layer:
    width, bias = n.size(), n.flag(0.7)
    nn = torch.nn
    module, made = (
        (nn.LayerNorm(width, bias=bias), "LayerNorm"),
        (nn.GroupNorm(2, width), "GroupNorm"),
        (nn.RMSNorm(width), "RMSNorm"),
        (nn.InstanceNorm1d(width, affine=True), "InstanceNorm"),
        (nn.BatchNorm1d(width, track_running_stats=False), "GroupNorm"),
    )[int(n.rng.integers(5))]
    state = n.fill(module)

    def linen(name: str) -> Any:
        options: dict[str, Any] = {} if made == "RMSNorm" else {"use_bias": "bias" in state}
        if made == "GroupNorm":
            options["num_groups"] = 2
        return getattr(_nn(), made)(name=name, **options)(_zeros(1, 5, width))

    return simple("norm", module, state, {"weight": "scale", "bias": "bias"}, linen=linen)


def _batch_norm(n: Numbers) -> Layer:
    width, affine = n.size(), n.flag(0.7)
    module = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)[int(n.flag())](width, affine=affine)
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    stats = frozenset({("mean",), ("var",)})

    def linen(name: str) -> Any:
        options = {"use_scale": affine, "use_bias": affine, "use_running_average": True}
        return _nn().BatchNorm(name=name, **options)(_zeros(1, width))

    extra: dict[str, Any] = {"stats": stats, "auxiliary": ("num_batches_tracked",), "linen": linen}
    return simple("batch_norm", module, n.fill(module), names, **extra)


def _prelu(n: Numbers) -> Layer:
    width = n.size() if n.flag() else 1
    module = torch.nn.PReLU(width)
    state = n.fill(module)
    layer = simple("prelu", module, state, {"weight": "negative_slope"})
    if width > 1:
        return layer

    def linen(name: str) -> Any:
        return _nn().PReLU(name=name)(_zeros(1, 4))

    scalar = {("negative_slope",): state["weight"].reshape(())}
    return Layer(
        **{
            **vars(layer),
            "flax": (scalar, *layer.flax),
            "linen": linen,
            "neutral": layer.neutral,
            "links": (),
        }
    )


def _attention(n: Numbers) -> Layer:
    heads, part, bias = 2, int(n.rng.choice([2, 4])), n.flag()
    width = heads * part
    module = torch.nn.MultiheadAttention(width, heads, bias=bias)
    state = n.fill(module)
    kernels = dict(zip(("query", "key", "value"), np.split(state["in_proj_weight"], 3), strict=True))
    flax: Tree = {(name, "kernel"): k.T.reshape(width, heads, part) for name, k in kernels.items()}
    neutral: Tree = {(name, "kernel"): kernel.T for name, kernel in kernels.items()}
    out = state["out_proj.weight"].T
    flax["out", "kernel"], neutral["out", "kernel"] = out.reshape(heads, part, width), out
    if bias:
        for name, vector in zip(kernels, np.split(state["in_proj_bias"], 3), strict=True):
            flax[name, "bias"], neutral[name, "bias"] = vector.reshape(heads, part), vector
        flax["out", "bias"] = neutral["out", "bias"] = state["out_proj.bias"]

    def linen(name: str) -> Any:
        layer = _nn().MultiHeadDotProductAttention(heads, use_bias=bias, name=name)
        return layer(_zeros(1, 3, width))

    return Layer("attention", module, state, (flax,), neutral, linen=linen)


_GATES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n"), "RNN": ("",)}


def _recurrent(n: Numbers) -> Layer:
    sort = ("LSTM", "GRU", "RNN")[int(n.rng.integers(3))]
    width, hidden, bias = n.size(), n.size(), n.flag(0.7)
    layers, both = int(n.rng.integers(1, 3)), n.flag(0.3)
    module = getattr(torch.nn, sort)(width, hidden, layers, bias=bias, bidirectional=both)
    state = n.fill(module)
    flax: Tree = {}
    neutral: Tree = {}
    back = [dict(state)]
    for place in sorted({name.split("_l", 1)[1] for name in state}):
        flax.update({(place, *path): v for path, v in _cell(sort, state, place, neutral).items()})
        if not bias:
            # Flax has biases, zeros here; torch may get them, too.
            zeros = np.zeros(len(_GATES[sort]) * hidden, np.float32)
            back[0].update({f"bias_{side}_l{place}": zeros for side in ("ih", "hh")})
    cells = {"LSTM": "LSTMCell", "GRU": "GRUCell", "RNN": "SimpleCell"}

    def linen(name: str) -> Any:
        places = {path[0]: flax[path].shape[0] for path in flax if path[1][0] == "i" and path[2] == "kernel"}
        return _group(name, {p: (cells[sort], hidden, inputs) for p, inputs in places.items()})

    return Layer("recurrent", module, state, (flax,), neutral, back=(*back, state), linen=linen)


def _cell(sort: str, state: Arrays, place: str, neutral: Tree) -> Tree:
    """Return one Linen cell, and add its neutral leaves: one small linear layer for each gate and side."""
    gates = _GATES[sort]
    flax: Tree = {}
    biases: dict[str, np.ndarray] = {}
    for side in ("i", "h"):
        kernels = np.split(state[f"weight_{side}h_l{place}"], len(gates))
        held = state.get(f"bias_{side}h_l{place}")
        vectors = [None] * len(gates) if held is None else np.split(held, len(gates))
        for gate, kernel, vector in zip(gates, kernels, vectors, strict=True):
            flax[side + gate, "kernel"] = neutral[place, side + gate, "kernel"] = kernel.T
            if vector is not None:
                neutral[place, side + gate, "bias"] = vector
            biases[side + gate] = np.zeros(len(kernel), np.float32) if vector is None else vector
    summed = {"LSTM": "h", "GRU": "i", "RNN": "i"}[sort]
    for gate in gates:
        if sort == "GRU" and gate == "n":
            flax["in", "bias"], flax["hn", "bias"] = biases["in"], biases["hn"]
        else:
            flax[summed + gate, "bias"] = biases["i" + gate] + biases["h" + gate]
    return flax


def _weight_norm(n: Numbers) -> Layer:
    rows, columns, bias, new = n.size(), n.size(), n.flag(), n.flag()
    module = (torch.nn.Linear(columns, rows, bias=bias), torch.nn.Conv1d(columns, rows, 3, bias=bias))[
        int(n.flag())
    ]
    quiet(parametrizations.weight_norm if new else weight_norm, module)
    state = n.fill(module)
    g, v = (f"parametrizations.weight.original{i}" for i in (0, 1)) if new else ("weight_g", "weight_v")
    flax: Tree = {
        ("scales", "kernel"): state[g].reshape(-1),
        ("layer_instance", "kernel"): turned(state[v]),
    }
    neutral: Tree = {("g",): state[g].reshape(-1), ("v",): turned(state[v])}
    if bias:
        flax["layer_instance", "bias"] = neutral["bias",] = state["bias"]
    return Layer("weight_norm", module, state, (flax,), neutral)


def quiet(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(*arguments, **options)


def _nn() -> Any:
    from flax import linen

    return linen


def _zeros(*shape: int) -> Any:
    import jax.numpy as jnp

    return jnp.zeros(shape)


def _group(name: str, cells: Mapping[str, tuple[str, int, int]]) -> Any:
    from support.random_models import linen_cells

    return linen_cells()(cells, name=name)()


STANDARD = (
    *(_linear, _linear, _linear, _conv, _conv, _norm, _norm, _batch_norm, _embedding),
    *(_conv_transpose, _prelu, _attention, _recurrent, _weight_norm),
)
"""Layers that every framework has."""


def draw_tied(numbers: Numbers) -> tuple[Layer, Layer]:
    """Return an embedding and a linear layer with one tensor."""
    embedding = _embedding(numbers)
    rows, columns = embedding.torch["weight"].shape
    module = torch.nn.Linear(columns, rows, bias=False)
    module.weight = embedding.module.weight
    state, linen = {"weight": embedding.torch["weight"]}, dense(rows, columns, bias=False)
    head = simple("tied_head", module, state, {"weight": "kernel"}, turn=turned, linen=linen)
    return embedding, head

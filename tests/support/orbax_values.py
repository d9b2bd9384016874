"""Trees for Orbax checkpoints whose values follow from their names, made with numpy only.

The scripts that save the checkpoints and the tests that read them make the same values on their own.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

PRNG_KEY = "uint32"
"""The dtype under which the data of a typed PRNG key is stored."""


@dataclass(frozen=True)
class Spec:
    """An array to be made.

    Args:
        shape: Its shape.
        dtype: Its dtype's name, as numpy and ml_dtypes know it.
        where: "jax", "numpy", or "key" for a typed PRNG key, whose data this is.
        shards: What each axis is divided over: "x", "y" or None; the mesh is 2 by 2, "xy" means both.
        bits: Whether any bit pattern may occur, NaNs of all kinds among them.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    where: str = "jax"
    shards: tuple[str | None, ...] = ()
    bits: bool = False


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name."""
    return np.dtype(getattr(ml_dtypes, name, name))


def values(name: str, spec: Spec) -> np.ndarray:
    """Return the array of a name: floats between 0.1 and 1, or any bits."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    dtype = dtype_of(spec.dtype)
    if spec.dtype == "bool":
        return np.asarray(rng.integers(0, 2, spec.shape)).astype(bool)
    if spec.dtype in ("int2", "int4"):
        half = 1 << (int(spec.dtype[3:]) - 1)
        return np.asarray(rng.integers(-half, half, spec.shape, np.int8)).astype(dtype)
    if not spec.bits and dtype.kind not in "iu":
        real = np.asarray(rng.uniform(0.1, 1.0, spec.shape))
        return np.asarray(real + 0.5j if dtype.kind == "c" else real).astype(dtype)
    count = int(np.prod(spec.shape, dtype=np.int64)) * dtype.itemsize
    raw = rng.integers(0, 16 if spec.dtype == "float4_e2m1fn" else 256, count, np.uint8)
    return raw.view(dtype).reshape(spec.shape)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return what is not a container, by path; lists and tuples count from 0."""
    if isinstance(tree, (dict, list, tuple)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for part, node in items for k, v in leaves(node, (*path, str(part))).items()}
    return {path: tree}


def expected(tree: Any, salt: str = "") -> dict[tuple[str, ...], np.ndarray]:
    """Return the tensors of a tree, by path: Python numbers are 0-d, None and strings are not tensors."""
    tensors = {}
    for path, leaf in leaves(tree).items():
        if isinstance(leaf, Spec):
            tensors[path] = values(salt + "/".join(path), leaf)
        elif isinstance(leaf, (bool, int, float, complex)):
            tensors[path] = np.array(leaf)
    return tensors


def b(shape: tuple[int, ...], dtype: str) -> Spec:
    """Return an array of any bits."""
    return Spec(shape, dtype, bits=True)


_MANTISSAS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz")

KINDS = {
    "float": {
        **{name: b((3, 5), name) for name in ("float64", "float32", "float16", "bfloat16", *_MANTISSAS)},
        "large": b((40, 33), "bfloat16"),
    },
    "int": {
        f"{sign}int{bits}": b((7,), f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
    },
    "int4": b((3, 3), "int4"),
    "bool": b((2, 9), "bool"),
    "complex": {"complex64": b((2, 2), "complex64"), "complex128": b((3,), "complex128")},
    "scalar": {
        name: b((), name) for name in ("float32", "bfloat16", "float8_e5m2", "int32", "bool", "complex64")
    },
    "shape": {"one": b((1,), "float32"), "four": b((2, 1, 3, 2), "float16"), "eight": b((1, 2) * 4, "int8")},
    "host": {
        "float32": Spec((4, 2), "float32", "numpy", bits=True),
        "bfloat16": Spec((5,), "bfloat16", "numpy", bits=True),
        "int64": Spec((2, 3), "int64", "numpy", bits=True),
        "scalar": Spec((), "float64", "numpy", bits=True),
    },
    "zeros": {"a": 0, "b": False, "c": 0.0},
}
"""Every dtype that Orbax writes with jax and tensorstore of today, and shapes."""

STRUCTURE = {
    "dict": {"weight": Spec((3, 4)), "bias": Spec((4,))},
    "list": [Spec((2,)), Spec((3,)), {"deep": Spec((1, 2))}],
    "tuple": (Spec((2, 2)), (Spec((1,)), None)),
    "number": {"int": 7, "negative": -(1 << 40), "float": 0.1, "true": True},
    "none": None,
    "empty": {"dict": {}, "list": [], "tuple": ()},
    "transformer/layer_0/attn/q_einsum": {"w": Spec((2, 3, 4), "bfloat16")},
    "transformer/layer_0/mlp/linear": Spec((4, 3), "bfloat16"),
    "dotted.name": {"kernel": Spec((2, 5))},
    "0": {"1": Spec((2,)), "01": Spec((3,))},
    "space and ünïcode é": {"kernel 名": Spec((3,))},
    "key": Spec((2,), PRNG_KEY, "key"),
    "keys": {"many": Spec((3, 2), PRNG_KEY, "key")},
}
"""Containers and names of every kind; `STRINGS` adds texts, which some of Orbax's classes refuse."""

STRINGS = {**STRUCTURE, "text": {"name": "a text", "empty": "", "unicode": "é 名"}}

_MODEL = {
    "dense_0": {"kernel": Spec((3, 4)), "bias": Spec((4,))},
    "norm": {"scale": Spec((4,)), "bias": Spec((4,))},
}
_STATS = {"norm": {"mean": Spec((4,)), "var": Spec((4,))}}

TRAIN = {
    "step": Spec((), "int32"),
    "params": _MODEL,
    "opt_state": [{}, [{"count": Spec((), "int32"), "mu": _MODEL, "nu": _MODEL}, {}, {}]],
    "batch_stats": _STATS,
}
"""A Linen TrainState with optax.chain(clip_by_global_norm, adamw) and batch statistics."""


def boxed(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree with each leaf in a box ``value``, as NNX states are saved."""
    return {k: boxed(v) if isinstance(v, dict) else {"value": v} for k, v in tree.items()}


NNX_PURE = {
    "linear": {"kernel": Spec((3, 4)), "bias": Spec((4,))},
    "bn": {**{name: Spec((4,)) for name in ("scale", "bias", "mean", "var")}},
    "dropout": {"rngs": {"count": Spec((), "uint32"), "key": Spec((2,), PRNG_KEY, "key")}},
    "layers": {
        "0": {"kernel": Spec((4, 4)), "bias": Spec((4,))},
        "1": {"kernel": Spec((4, 4)), "bias": Spec((4,))},
    },
}
"""The pure state of `orbax_saving.Model`."""

NNX = boxed(NNX_PURE)


def s(shape: tuple[int, ...], *shards: str | None, dtype: str = "float32") -> Spec:
    """Return an array over devices."""
    return Spec(shape, dtype, shards=shards, bits=True)


SHARDED = {
    "rows": s((8, 6), "xy", None, dtype="bfloat16"),
    "columns": s((6, 8), None, "xy"),
    "both": s((4, 6), "x", "y", dtype="float16"),
    "half": s((6, 3), "y", None, dtype="int8"),
    "three": s((2, 3, 4), "x", None, "y", dtype="float8_e4m3fn"),
    "replicated": s((3, 5), None, None),
    "scalar": s((), dtype="int32"),
    "vector": s((12,), "xy", dtype="bfloat16"),
}
"""Arrays over four devices, along the first axis, the second, both, or as copies."""

OLD = {
    "dense": {"kernel": Spec((3, 4), bits=True), "bias": Spec((4,), "bfloat16", bits=True)},
    "list": [Spec((2,)), (Spec((1, 3), "int8", bits=True), None)],
    "number": {"int": 7, "float": 0.1, "true": True},
    "scalar": Spec((), "float16", bits=True),
    "empty": Spec((0, 3), where="numpy"),
    "none": None,
    "nothing": {"dict": {}, "list": []},
    "host": Spec((2, 2), "float64", "numpy", bits=True),
    "encoder/layer_0/attn": {"w": Spec((2, 3), "bfloat16")},
    "encoder/layer_0/mlp": Spec((3, 2), "bfloat16"),
    "dotted.name": {"kernel": Spec((2, 5), "uint8", bits=True)},
    "text": "a text",
}
"""What the old files hold."""

OLD_MIXED = {
    "large": Spec((8, 6), bits=True),
    "small": {"b": Spec((4,), "bfloat16")},
    "step": 7,
    "none": None,
}
"""Of which only `large` is not inside the old files' msgpack file."""

PARAMS = {"params": _MODEL}
OPTIMIZER = {"count": Spec((), "int32"), "mu": _MODEL}
TINY = {"w": Spec((3, 2), "bfloat16"), "b": Spec((2,))}

MAXTEXT = {
    "params": {
        "params": {
            "token_embedder": {"embedding": Spec((16, 8), "bfloat16")},
            "decoder": {
                "layers": {
                    "mlp": {"wi_0": {"kernel": Spec((8, 2, 12))}, "wo": {"kernel": Spec((12, 2, 8))}},
                    "self_attention": {"query": {"kernel": Spec((8, 2, 4, 2))}},
                },
                "decoder_norm": {"scale": Spec((8,))},
            },
        }
    }
}
"""Names as in MaxText, with two layers stacked along the second axis."""

TREES: dict[str, Any] = {
    "maxtext": MAXTEXT,
    "kinds": KINDS,
    "structure": STRUCTURE,
    "strings": STRINGS,
    "train": TRAIN,
    "nnx": NNX,
    "nnx_pure": NNX_PURE,
    "sharded": SHARDED,
    "params": PARAMS,
    "optimizer": OPTIMIZER,
    "tiny": TINY,
    "old": OLD,
    "old_mixed": OLD_MIXED,
}


@dataclass(frozen=True)
class Item:
    """One pytree inside a saved checkpoint, and how it is asked for.

    Args:
        tree: Its name in `TREES`.
        salt: What its values begin with, so that steps differ.
        step: The number of the step, or None.
        entry: The name of the item, or None.
    """

    tree: str
    salt: str = ""
    step: int | None = None
    entry: str | None = None

    def expected(self) -> dict[tuple[str, ...], np.ndarray]:
        """Return its tensors."""
        return expected(TREES[self.tree], self.salt)


@dataclass(frozen=True)
class Case:
    """A checkpoint to be saved by Orbax.

    Args:
        name: The folder.
        api: "pytree", "standard", "manager", "v1" or "checkpointables".
        items: What it holds.
        ocdbt: Whether the arrays are in one database rather than a folder each.
        zarr3: Whether they are of zarr's version 3.
        devices: How many CPU devices save it.
        options: What else is asked of the handler.
    """

    name: str
    api: str
    items: tuple[Item, ...]
    ocdbt: bool = True
    zarr3: bool = False
    devices: int = 1
    options: tuple[tuple[str, Any], ...] = field(default=())


STEPS = (5, 12, 100)
METADATA = {"framework": "flax", "note": "not a weight", "numbers": [1, 2.5, None]}
"""The item that JsonCheckpointHandler saves in each step."""


def _layouts() -> list[tuple[str, bool, bool]]:
    return [
        (f"{'ocdbt' if ocdbt else 'files'}-zarr{3 if zarr3 else 2}", ocdbt, zarr3)
        for ocdbt in (True, False)
        for zarr3 in (False, True)
    ]


def _steps() -> tuple[Item, ...]:
    pairs = (("params", "params"), ("optimizer_state", "optimizer"))
    return tuple(Item(tree, f"{step}:", step, entry) for step in STEPS for entry, tree in pairs)


def cases() -> dict[str, Case]:
    """Return every checkpoint of the matrix, by name."""
    matrix = []
    for layout, ocdbt, zarr3 in _layouts():
        how: dict[str, Any] = {"ocdbt": ocdbt, "zarr3": zarr3}
        for tree in ("kinds", "strings", "train", "nnx", "nnx_pure"):
            matrix.append(Case(f"pytree-{layout}-{tree}", "pytree", (Item(tree),), **how))
        if not zarr3:  # StandardCheckpointer has no such option
            for tree in ("kinds", "structure", "train", "nnx"):
                matrix.append(Case(f"standard-{layout}-{tree}", "standard", (Item(tree),), **how))
        matrix.append(Case(f"manager-{layout}", "manager", _steps(), **how))
        matrix.append(Case(f"v1-{layout}", "v1", (Item("strings"),), **how))
        matrix.append(Case(f"pytree-{layout}-sharded", "pytree", (Item("sharded"),), devices=4, **how))
        matrix.append(
            Case(
                f"manager-{layout}-sharded",
                "manager",
                tuple(Item("sharded", f"{step}:", step, "state") for step in STEPS),
                devices=4,
                **how,
            )
        )
        small = (("chunk_byte_size", 64),)
        matrix.append(
            Case(f"pytree-{layout}-subchunks", "pytree", (Item("sharded"),), devices=4, options=small, **how)
        )
    matrix += [
        Case("standard-sharded", "standard", (Item("sharded"),), devices=4),
        Case(
            "checkpointables", "checkpointables", tuple(Item(e, f"{e}:", None, e) for e in ("params", "tiny"))
        ),
        Case("uncompressed", "pytree", (Item("kinds"),), options=(("use_compression", False),)),
        Case("rich-types", "pytree", (Item("train"),), options=(("rich", True),)),
        Case("single-item", "manager", (Item("params", "7:", 7, "default"),)),
        Case(
            "prefixed",
            "manager",
            (Item("params", "7:", 7, "default"),),
            options=(("step_prefix", "checkpoint"), ("step_format_fixed_length", 8)),
        ),
        Case("small-files", "pytree", (Item("kinds"),), options=(("ocdbt_target_data_file_size", 512),)),
    ]
    return {case.name: case for case in matrix}


def old_cases() -> dict[str, tuple[Item, ...]]:
    """Return what the folders of `orbax-0.4.8` hold, by name."""
    whole = ("files", "files_no_metadata", "ocdbt", "ocdbt_no_metadata", "aggregate", "aggregate_no_metadata")
    folders: dict[str, tuple[Item, ...]] = {name: (Item("old"),) for name in whole}
    folders |= {name: (Item("old_mixed"),) for name in ("mixed", "mixed_no_metadata")}
    folders |= {name: (Item("sharded"),) for name in ("sharded_files", "sharded_ocdbt")}
    entries = (("params", "params"), ("state", "optimizer"))
    folders["manager"] = tuple(Item(t, f"{step}:", step, e) for step in (3, 20) for e, t in entries)
    folders["single"] = tuple(Item("params", f"{step}:", step, "default") for step in (3, 20))
    folders["flax"] = tuple(Item("train", f"{step}:", step) for step in (3, 20))
    return folders


SAMPLE = (
    "pytree-ocdbt-zarr2-strings",
    "standard-ocdbt-zarr2-kinds",
    "v1-ocdbt-zarr3",
    "pytree-files-zarr3-sharded",
    "pytree-files-zarr2-nnx_pure",
    "pytree-ocdbt-zarr2-nnx",
    "pytree-ocdbt-zarr3-train",
    "pytree-ocdbt-zarr2-subchunks",
    "manager-ocdbt-zarr2",
    "prefixed",
)
"""Cases that are stored with the tests, as orbax-checkpoint 0.12.8 wrote them."""

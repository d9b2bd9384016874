"""What two attention modules have in common, and what each computed from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bridge_core.proof.causes.attention_core import Parts
from bridge_core.proof.causes.attention_forms import Hints
from bridge_core.proof.causes.attention_search import Recorded
from bridge_core.proof.causes.masks import biases_among, masks_among
from bridge_core.proof.causes.measures import comparable, relative_error, rounding
from bridge_core.proof.causes.rotary_tables import tables_among
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["attention_parts", "first_float", "other_arrays"]

_LARGEST = 1 << 24
"""Numbers of a logits array over which nothing is tried: 128 MiB in float64, and there are a few copies."""

_ROLES = {
    "qkv": "qkv wqkv c_attn in_proj query_key_value qkv_proj to_qkv attn_qkv qkv_einsum w_qkv",
    "kv": "kv to_kv kv_proj c_kv kv_einsum key_value wkv",
    "q": "q query q_proj wq to_q q_lin query_proj q_einsum query_layer linear_q q_linear queries c_q w_q",
    "k": "k key k_proj wk to_k k_lin key_proj k_einsum key_layer linear_k k_linear keys c_k w_k",
    "v": "v value v_proj wv to_v v_lin value_proj v_einsum value_layer linear_v v_linear values c_v w_v",
    "o": "o out o_proj out_proj wo to_out out_lin c_proj dense proj attn_vec attn_vec_einsum linear_out"
    " output o_linear out_linear attention_output attn_out projection w_o resid_proj output_proj",
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names.split()}
_NORM = re.compile(r"norm|(^|_)ln(_|$)", re.IGNORECASE)


def attention_parts(site: Site) -> tuple[Parts, Hints, tuple[Recorded, Recorded]] | None:
    """Return what two attentions have in common, sizes, and what each recorded; None if they are not one."""
    layer = next((v for v in (site.source, site.target) if v.neutral and "query.kernel" in v.neutral), None)
    if layer is not None:
        return _whole_layer(site, layer)
    before = None if site.at is None else site.pairs[site.at]
    views = (
        _named(site.source, None if before is None else before[0], frozenset(one for one, _ in site.pairs)),
        _named(
            site.target, None if before is None else before[1], frozenset(other for _, other in site.pairs)
        ),
    )
    chosen = [_projections(site, roles, own) for own, roles in enumerate(views)]
    projected = max(chosen, key=len) if any(chosen) else {}
    if set(projected) not in ({"q", "k", "v"}, {"qkv"}, {"q", "kv"}):
        return None
    sizes = tuple(projected.get(name, projected.get("qkv", projected.get("kv"))) for name in ("q", "k"))
    batch, queries, keys = sizes[0].shape[0], sizes[0].shape[1], sizes[1].shape[1]  # type: ignore[union-attr]
    recorded = _recorded(site, views, batch, queries)
    if recorded is None:
        return None
    split = [_split_shapes(roles) for roles in views]
    return _with_masks(site, projected, {}, recorded, (batch, queries, keys), [p for p in split if p])


def first_float(arrays: Mapping[str, Array], names: tuple[str, ...] = ("", "0")) -> Array | None:
    """Return the array of one of the names, else the first that holds floats."""
    for name in (*names, *arrays):
        if name in arrays:
            array = np.asarray(arrays[name])
            if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
                return array
    return None


def other_arrays(site: Site) -> dict[str, Array]:
    """Return every array that either side was given: what its module, or its model, was called with.

    Names are for people. Arrays that have the same values have one name, the one nearest to the module.
    """
    result: dict[str, Array] = {}

    def add(name: str, value: Any, other: str = " (target)") -> None:
        array = np.asarray(value)
        if array.ndim == 0 or not (comparable(array) or array.dtype.kind == "c"):
            return
        if any(
            a.shape == array.shape and a.dtype.kind == array.dtype.kind and (a == array).all()
            for a in result.values()
        ):
            return
        result[name if name not in result else f"{name}{other}"] = array

    for view in (site.source, site.target):
        for name, value in view.inputs.items():
            add(f"input {name}" if name.isdigit() else name, value)
    for view in (site.source, site.target):
        for child in view.children:
            if child.kind is None:
                for name, value in child.outputs.items():
                    add(f"{_name(child)}{'.' if name else ''}{name}", value)
    for inputs in (site.source_inputs, site.target_inputs):
        for place, value in enumerate(inputs.positional):
            if not isinstance(value, (str, bytes, dict, list, tuple)) and value is not None:
                add(f"input {place} of the model", value)
        for name, value in inputs.named.items():
            if not isinstance(value, (str, bytes, dict, list, tuple)) and value is not None:
                add(name, value, " of the model")
    return result


def _name(view: ModuleView) -> str:
    return str(view.path[-1]) if view.path else view.type.rpartition(".")[2]


def _named(view: ModuleView, before: int | None, paired: frozenset[int]) -> dict[str, ModuleView]:
    """Return the children that are projections, by role: those before one child, and inside unpaired ones."""
    children = view.children if before is None else view.children[: before + 1]
    result: dict[str, ModuleView] = {}
    for child in children:
        role = _ROLE_OF.get(_name(child).lower())
        if role is not None:
            result.setdefault(role, child)
    if not any(role in result for role in ("q", "qkv")):
        for place, child in enumerate(children):
            if child.children and place not in paired:
                for role, found in _named(child, None, frozenset()).items():
                    result.setdefault(role, found)
    linear = [c for c in children if c.kind == "linear" or "kernel" in c.neutral]
    if (
        not any(role in result for role in ("q", "qkv"))
        and len(linear) in (3, 4)
        and _share_input(linear[1:3])
    ):
        result.update(zip("qkvo", linear, strict=False))
    return result


def _share_input(layers: list[ModuleView]) -> bool:
    """Return whether two layers were called with one array, as those of keys and values are."""
    first, second = (first_float(layer.inputs) for layer in layers)
    return first is not None and second is not None and np.array_equal(first, second)


def _projections(site: Site, roles: Mapping[str, ModuleView], side: int) -> dict[str, Array]:
    """Return what the projections computed, after norms, float64 ``(batch, length, n)``."""
    view = (site.source, site.target)[side]
    names = ("q", "k", "v") if all(r in roles for r in "qkv") else ("qkv",) if "qkv" in roles else ("q", "kv")
    result = {}
    for role in names:
        if role not in roles:
            return {}
        array = _three_axes(roles[role])
        if array is None:
            return {}
        result[role] = _after_norms(array, view, roles[role]) if role in ("q", "k") else array
    if len({array.shape[0] for array in result.values()}) > 1 or any(
        a.size > _LARGEST for a in result.values()
    ):
        return {}
    return result


def _three_axes(child: ModuleView) -> Array | None:
    """Return a projection's output as float64 ``(batch, length, n)``, by the axes of its input."""
    output, given = first_float(child.outputs), first_float(child.inputs)
    if output is None or given is None or given.ndim < 2 or output.ndim < given.ndim:
        return None
    if output.shape[: given.ndim - 1] != given.shape[:-1]:
        return None
    length = given.shape[-2]
    return np.asarray(output, np.float64).reshape(-1, length, int(np.prod(output.shape[given.ndim - 1 :])))


def _after_norms(array: Array, view: ModuleView, projection: ModuleView) -> Array:
    """Return what a norm of queries or keys made of an array; the array if there is none."""
    batch, length, _ = array.shape
    for child in view.children:
        if not _NORM.search(_name(child)):
            continue
        given, output = first_float(child.inputs), first_float(child.outputs)
        if given is None or output is None or given.size != array.size or output.shape != given.shape:
            continue
        for swapped in (False, True):
            if swapped and given.ndim != 4:
                continue
            x, y = (np.asarray(a, np.float64) for a in (given, output))
            if swapped:
                x, y = x.swapaxes(1, 2), y.swapaxes(1, 2)
            if x.shape[:2] in ((batch, length), (batch * length,)) or x.size == array.size:
                flat = x.reshape(array.shape)
                if relative_error(array, flat) <= 1e-6:
                    return y.reshape(array.shape)
    return array


def _split_shapes(roles: Mapping[str, ModuleView]) -> tuple[int, int] | None:
    """Return heads and kv heads where projections have axes for them."""
    counts = []
    for role in ("q", "k"):
        child = roles.get(role)
        output, given = (
            (None, None) if child is None else (first_float(child.outputs), first_float(child.inputs))
        )
        if output is None or given is None or output.ndim != given.ndim + 1:
            return None
        counts.append(output.shape[-2])
    return counts[0], counts[1]


def _recorded(
    site: Site, views: tuple[dict[str, ModuleView], dict[str, ModuleView]], batch: int, length: int
) -> tuple[Recorded, Recorded] | None:
    """Return what each side computed: the input of the child that differs, or the output."""
    if site.at is not None:
        one, other = site.pairs[site.at]
        arrays = [
            first_float(site.source.children[one].inputs),
            first_float(site.target.children[other].inputs),
        ]
        tails: list[ModuleView | None] = [None, None]
    else:
        if any("o" in v for v in views) and all(
            "o" in v and first_float(v["o"].inputs) is not None for v in views
        ):
            arrays = [first_float(v["o"].inputs) for v in views]
            tails = [None, None]
        else:
            last = next((v["o"] for v in views if "o" in v and "kernel" in v["o"].neutral), None)
            arrays, tails = [], []
            for view, roles in zip((site.source, site.target), views, strict=True):
                inside = first_float(roles["o"].inputs) if "o" in roles else None
                arrays.append(first_float(view.outputs) if inside is None else inside)
                tails.append(last if inside is None else None)
    if arrays[0] is None or arrays[1] is None:
        return None
    limit = rounding(site, arrays[0], arrays[1])
    result = []
    for array, tail in zip(arrays, tails, strict=True):
        shaped = _shaped(array, batch, length)  # type: ignore[arg-type]
        if shaped is None:
            return None
        kernel = None if tail is None else np.asarray(tail.neutral["kernel"], np.float64)
        bias = (
            None
            if tail is None or "bias" not in tail.neutral
            else np.asarray(tail.neutral["bias"], np.float64)
        )
        if kernel is not None and kernel.ndim != 2:
            return None
        result.append(Recorded(shaped, kernel, bias, limit))
    return result[0], result[1]


def _shaped(array: Array, batch: int, length: int) -> Array | None:
    """Return an array as float64 ``(batch, length, n)``; None if its axes are not these."""
    x = np.asarray(array, np.float64)
    if x.size % (batch * length) or not np.isfinite(x).all() or not x.size:
        return None
    if batch == 1 and x.shape[0] == length:
        x = x[None]
    if x.shape[:2] == (batch, length) or x.shape[-2] == length:
        return x.reshape(batch, length, -1)
    if x.ndim == 3 and x.shape[:2] == (length, batch):
        return x.swapaxes(0, 1)
    if x.ndim == 4 and x.shape[0] == batch and x.shape[2] == length:
        return x.swapaxes(1, 2).reshape(batch, length, -1)
    return x.reshape(batch, length, -1) if x.shape[0] in (batch, batch * length) and x.ndim > 2 else None


def _whole_layer(site: Site, layer: ModuleView) -> tuple[Parts, Hints, tuple[Recorded, Recorded]] | None:
    """Return the same of an attention that is one layer."""
    weights = {name: np.asarray(value, np.float64) for name, value in layer.neutral.items()}
    projected = {}
    previous: Array | None = None
    for role, place, name in (("q", "0", "query"), ("k", "1", "key"), ("v", "2", "value")):
        array = None
        for view in (site.source, site.target):
            for key in (name, f"inputs_{role}", place, "inputs_kv" if role != "q" else "inputs"):
                if array is None and key in view.inputs:
                    array = np.asarray(view.inputs[key])
        if array is not None and array.ndim in (2, 3) and array.dtype.kind not in "biu":
            previous = np.asarray(array, np.float64).reshape(-1, *array.shape[-2:])
        if previous is None or previous.shape[-1] != len(weights.get(f"{name}.kernel", ())):
            return None
        projected[f"x {role}"] = previous
    arrays = [first_float(view.outputs) for view in (site.source, site.target)]
    if arrays[0] is None or arrays[1] is None or "out.kernel" not in weights:
        return None
    batch, queries = projected["x q"].shape[:2]
    keys = projected["x k"].shape[1]
    recorded = []
    for array in arrays:
        shaped = _shaped(array, batch, queries)  # type: ignore[arg-type]
        if shaped is None:
            return None
        limit = rounding(site, arrays[0], arrays[1])
        recorded.append(Recorded(shaped, weights["out.kernel"], weights.get("out.bias"), limit))
    return _with_masks(site, projected, weights, (recorded[0], recorded[1]), (batch, queries, keys), [])


def _with_masks(
    site: Site,
    projected: Mapping[str, Array],
    weights: Mapping[str, Array],
    recorded: tuple[Recorded, Recorded],
    sizes: tuple[int, int, int],
    split: list[tuple[int, int]],
) -> tuple[Parts, Hints, tuple[Recorded, Recorded]] | None:
    batch, queries, keys = sizes
    arrays = {n: a for n, a in other_arrays(site).items() if not _is_hidden(a, site)}
    real = {name: a for name, a in arrays.items() if a.dtype.kind != "c"}
    masks = dict(masks_among(real, batch, queries, keys))
    biases = dict(biases_among(real, batch, queries, keys))
    given: dict[str, Any] = dict(tables_among(arrays, batch, queries))
    for name, array in real.items():
        fits = array.dtype.kind in "iu" and array.shape in ((batch, queries), (1, queries), (queries,))
        if fits and 1 < array.max() < 10 * queries and array.min() >= -queries:
            given[name] = array.reshape(-1, queries).astype(np.float64)
    width = {name: a.shape[-1] for name, a in projected.items()}
    if weights:
        width = {role: weights[f"{leaf}.kernel"].shape[1] for role, leaf in _LEAVES}
    hints = _hints(site, width, (queries, keys), split)
    heads = [h for h, _ in hints.head_counts()]
    if not heads or batch * max(h for h, _ in hints.head_counts()[:1]) * queries * keys > _LARGEST:
        return None
    buckets = dict(_bucket_tables(site, heads))
    return Parts(projected, weights, masks, biases, given, buckets), hints, recorded


_LEAVES = (("q", "query"), ("k", "key"), ("v", "value"))


def _is_hidden(array: Array, site: Site) -> bool:
    """Return whether an array is what the module transforms, which is not a mask."""
    first = first_float(site.source.inputs)
    return (
        first is not None
        and first.shape == array.shape
        and first.dtype == array.dtype
        and array.ndim > 2
        and array.shape[-1] != array.shape[-2]
    )


def _bucket_tables(site: Site, heads: list[int]) -> Iterator[tuple[str, Array]]:
    values: list[Array] = []
    for view in (site.source, site.target):
        for key, value in view.weights.items():
            array = np.asarray(value)
            name = ".".join(map(str, key))
            if array.ndim != 2 or array.shape[1] not in heads or "rel" not in name.lower():
                continue
            table = array.astype(np.float64)
            if not any(v.shape == table.shape and (v == table).all() for v in values):
                values.append(table)
                yield name, table


def _hints(
    site: Site, width: Mapping[str, int], lengths: tuple[int, int], split: list[tuple[int, int]]
) -> Hints:
    numbers: dict[str, list[Any]] = {}
    for view in (site.source, site.target):
        for one in (view, *view.children):
            for name, value in one.settings.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    numbers.setdefault(name, []).append(value)
    fused = width.get("qkv", 0)
    query = width.get("q", 0)
    key = width.get("k", width.get("kv", 0) // 2)
    pairs = list(split)
    for place, count in enumerate(numbers.get("heads", [])):
        kv = numbers.get("kv_heads", [])
        pairs.append((int(count), int(kv[min(place, len(kv) - 1)]) if kv else int(count)))
    for size in numbers.get("head_dim", []):
        if size > 0 and query and query % size == 0 and key % size == 0 and key:
            pairs.append((query // int(size), key // int(size)))
    if query and key:
        pairs = [
            (h, key // (query // h))
            if h > 0 and query % h == 0 and query // h and key % (query // h) == 0
            else (h, g)
            for h, g in pairs
        ]
    return Hints(
        query,
        key,
        fused,
        "kv" in width,
        *lengths,
        heads=tuple(dict.fromkeys(pair for pair in pairs if pair[0] > 0 and pair[1] > 0)),
        scales=tuple(float(x) for x in numbers.get("scale", []) if x),
        thetas=tuple(float(x) for x in numbers.get("rope_theta", []) if x > 0),
        windows=tuple(int(x) for x in numbers.get("window", []) if x > 0),
        softcaps=tuple(float(x) for x in numbers.get("softcap", []) if x > 0),
    )

"""Causes inside a layer: both sides' forms identified, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.convolutions import CONV
from bridge_core.proof.causes.forms import Family, Form, Task, closest, differing, identify
from bridge_core.proof.causes.linears import EMBEDDING, LINEAR
from bridge_core.proof.causes.measures import relative_error
from bridge_core.proof.causes.mends import mend, shown
from bridge_core.proof.causes.norms import NORM
from bridge_core.proof.causes.pools import ACTIVATION, POOL
from bridge_core.proof.causes.sides import Side, unlike_weights
from bridge_core.proof.causes.site import Site
from bridge_core.proof.differences import relation_between
from bridge_core.state import Array

__all__ = ["code_of", "layer_causes", "precision_of", "setting_text"]

FAMILIES: Mapping[str, Family] = {
    "linear": LINEAR,
    "embedding": EMBEDDING,
    "conv": CONV,
    "norm": NORM,
    "pool": POOL,
    "activation": ACTIVATION,
}
OF_KINDS = {"conv_transpose": "conv", "batch_norm": "norm", "prelu": "activation"}

CODES = {
    ("norm", "eps"): "epsilon",
    ("norm", "eps_place"): "epsilon_place",
    ("norm", "variance"): "norm_variance",
    ("norm", "centred"): "norm_centring",
    ("norm", "added"): "norm_offset",
    ("norm", "groups"): "norm_groups",
    ("norm", "scale"): "norm_scale",
    ("norm", "bias"): "missing_bias",
    ("linear", "transposed"): "transposed_weight",
    ("linear", "kernel"): "other_weight",
    ("linear", "bias_of"): "other_weight",
    ("linear", "scale"): "scale",
    ("embedding", "scale"): "embedding_scale",
    ("embedding", "offset"): "row_offset",
    ("embedding", "zero_row"): "padding_row",
    ("embedding", "table"): "other_weight",
    ("conv", "flipped"): "flipped_kernel",
    ("conv", "swapped"): "transposed_kernel",
    ("pool", "window"): "pool_window",
    ("pool", "stride"): "pool_stride",
    ("pool", "padding"): "pool_padding",
    ("activation", "slope"): "activation",
    ("tokens", "take"): "token_pooling",
    ("part", "part"): "part_order",
    ("part", "interleaved"): "part_order",
}
"""(family, setting) -> code; a setting of another name is its own code."""

WORDS = {
    "eps": "epsilon",
    "eps_place": "place of epsilon, relative to the root",
    "over": "normalised over",
    "centred": "centring",
    "added": "factor",
    "offset": "offset of the rows",
    "how": "pooling",
    "zero_row": "row of zeros",
    "bias": "bias added",
    "flipped": "kernel flipped",
    "swapped": "axes of space of the kernel swapped",
    "padding_mode": "padding mode",
    "transposed": "weight transposed",
}


def code_of(family: str, setting: str, source: Any, target: Any) -> str:
    """Return the code of a cause: one setting of a family that differs."""
    if setting == "bias" and isinstance(source, int) and isinstance(target, int):
        return "missing_bias" if target < source else "extra_bias"
    if setting == "bias" and family == "norm":
        return "missing_bias" if target is None else "extra_bias" if source is None else "other_weight"
    if setting == "over":
        return "batch_statistics" if {source, target} == {"batch", "running"} else "norm_axes"
    if setting == "how":
        return "pool_kind" if "max" in (source, target) else "pool_count"
    if setting == "activation" and all(str(one).startswith("softmax") for one in (source, target)):
        return "softmax_axis"
    return CODES.get((family, setting), setting)


def setting_text(family: str, name: str, value: Any) -> str:
    """Return a value of a family's setting for people."""
    return f"{value} token" if family == "tokens" and value in ("first", "last") else shown(name, value)


def _layer_task(side: Side, other: Side, limit: float) -> Task | None:
    """Return what the families of layers see of a side; None if it was called without an array."""
    inputs = [array for name, array in side.arrays.items() if name.startswith("input ")]
    if not inputs:
        return None
    return Task(
        inputs[0],
        side.observed,
        side.weights,
        (side.view.settings, other.view.settings),
        limit,
        side.view.kind,
        side.view.type.rpartition(".")[2],
        precision_of(side),
    )


def precision_of(side: Side) -> float:
    """Return the coarsest step at 1 of the dtypes that were observed."""
    steps = [
        2.0**-8 if d.name == "bfloat16" else np.finfo(d).eps
        for d in side.dtypes
        if d.kind != "i" and d.kind in "fV"
    ]
    return float(max(steps, default=2.0**-52))


def layer_causes(site: Site, sides: tuple[Side, Side], limit: float) -> Iterator[Cause]:
    """Yield causes inside a layer: settings, and weights that differ; nothing for a module with children."""
    if site.at is not None or site.pairs:
        return
    tasks = [_layer_task(sides[0], sides[1], limit), _layer_task(sides[1], sides[0], limit)]
    source, target = tasks
    if source is None or target is None:
        return
    unlike = unlike_weights(sides, limit)
    for name in _families(site):
        family = FAMILIES[name]
        forms = identify(family, source)
        if not forms:
            continue
        pair = closest(forms, identify(family, target))
        if pair is not None:
            if unlike and not differing(pair[0].settings, pair[1].settings):
                yield from _weight_causes(site, family, forms[0], (source, target), unlike)
                return
            cause = _cause(site, family, pair, source, target)
            if cause is not None:
                yield cause
                return
        else:
            cause = _unlike(site, family, forms[0], source, target, limit)
            if cause is not None:
                yield cause
                return


def _families(site: Site) -> list[str]:
    kind = site.source.kind or site.target.kind or ""
    own = OF_KINDS.get(kind, kind)
    if own in FAMILIES:
        return [own]
    return list(FAMILIES)


def _cause(site: Site, family: Family, pair: tuple[Form, Form], source: Task, target: Task) -> Cause | None:
    one, other = pair
    names = differing(one.settings, other.settings)
    if not names:
        return None
    weights = {**source.weights, **target.weights}
    without = relative_error(source.observed, target.observed)
    chosen, error = names, float("inf")
    for tried in [[name] for name in names] + [names]:
        error = _error(
            family, source, target, weights, {**other.settings, **{n: one.settings[n] for n in tried}}
        )
        chosen = tried
        if error <= source.limit:
            break
    values = [(name, one.settings[name], other.settings[name]) for name in chosen]
    texts = [(WORDS.get(n, n), shown(n, a), shown(n, b)) for n, a, b in values]
    described = "; ".join(f"{word}: {a} in the source, {b} in the target" for word, a, b in texts)
    return Cause(
        code_of(family.name, *values[0]),
        f"The layers differ in {described}.",
        ", ".join(a for _, a, _ in texts),
        ", ".join(b for _, _, b in texts),
        without,
        error,
        mend(site.target, [(name, value) for name, value, _ in values]),
    )


def _error(
    family: Family, source: Task, target: Task, weights: Mapping[str, Array], settings: Mapping[str, Any]
) -> float:
    """Return how far the target, computed with these settings, is from the source's array."""
    with np.errstate(all="ignore"):
        try:
            return relative_error(source.observed, family.compute(target.x, weights, settings))
        except (ValueError, IndexError, KeyError):
            return float("inf")


def _unlike(site: Site, family: Family, form: Form, source: Task, target: Task, limit: float) -> Cause | None:
    """Return that the target computes something that is not of this family."""
    weights = {**source.weights, **target.weights}
    error = _error(family, source, target, weights, form.settings)
    text = ", ".join(
        f"{WORDS.get(n, n)} {shown(n, v)}" for n, v in form.settings.items() if v not in (None, False)
    )
    return Cause(
        "other_computation",
        f"The source computes {family.name} ({text}); what the target computes is not known.",
        f"{family.name} ({text})",
        "unknown",
        relative_error(source.observed, target.observed),
        error,
        mend(site.target, []),
    )


RELATIONS = {
    "transposed": ("transposed_weight", "transpose it"),
    "scaled": ("weight_scale", "do not scale it"),
    "shifted": ("weight_offset", "do not add to it"),
    "negated": ("weight_sign", "do not change its sign"),
}
"""Kind of relation between the weights of both sides -> code, and what to do in the rule that converts it."""


def _weight_causes(
    site: Site, family: Family, form: Form, tasks: tuple[Task, Task], unlike: list[str]
) -> Iterator[Cause]:
    """Yield that both layers compute alike with weights that differ: the conversion is wrong."""
    source, target = tasks
    weights = {**source.weights, **{n: w for n, w in target.weights.items() if n not in unlike}}
    error = _error(family, source, target, weights, form.settings)
    without = relative_error(source.observed, target.observed)
    where = ".".join(map(str, site.target.path)) or "the model"
    for name in unlike:
        kind, text = _relation(source.weights[name], target.weights[name])
        code, todo = RELATIONS.get(kind, ("weight_order", "put its values in the source's order"))
        yield Cause(
            code if kind else "other_weight",
            f"The weight {name} of the target is not that of the source, but as if {text or 'another one'}.",
            name,
            text or "other values",
            without,
            error,
            f"In the rules, at {where}: {name}: {todo if kind else 'name the right key'}.",
        )


def _relation(source: Array, target: Array) -> tuple[str, str]:
    """Return the kind of the relation between two weights, and what completes "as if ..."; empty if none."""
    relation = relation_between(source.astype(np.float32), target.astype(np.float32), tolerance=1e-6)
    return ("", "") if relation is None else (relation.kind, relation.text)

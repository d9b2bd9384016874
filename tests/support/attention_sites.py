"""Sites of attention, made from forms in numpy: no framework runs."""

from dataclasses import replace

import numpy as np

from bridge_core.plugins import Inputs
from bridge_core.proof.causes import ModuleView, Site
from bridge_core.proof.causes.attention_core import Parts, attend

__all__ = ["attention_site", "layer_site", "projections", "site_of_arrays", "view", "with_noise"]


def view(path, inputs=None, outputs=None, **rest):
    return ModuleView(path, rest.pop("type", "A"), "torch", inputs or {}, outputs or {}, **rest)


def projections(form, batch=2, length=11, head_dim=8, seed=0):
    """Return random queries, keys and values ``(batch, length, n)``, of the form's numbers of heads."""
    r = np.random.default_rng(seed)
    sizes = {"q": form.heads, "k": form.kv_heads, "v": form.kv_heads}
    return {
        name: r.normal(size=(batch, length, n * head_dim)).astype(np.float32) for name, n in sizes.items()
    }


def with_noise(parts, form, seed=0):
    """Return what a form computes in float32."""
    return attend(parts, form).astype(np.float32)


def attention_site(
    source,
    target,
    mask=None,
    settings=True,
    control=1e-7,
    head_dim=8,
    length=11,
    outputs=None,
    bias=None,
    joined=False,
):
    """Return the site of two forms whose projections agree and whose output projection's input differs.

    Args:
        source: The source's form.
        target: The target's form.
        mask: What both are given as ``attention_mask``, 0 or 1, ``(batch, keys)``.
        settings: Whether the numbers of heads are in the settings.
        control: The site's control.
        head_dim: Numbers of a head.
        length: Number of positions.
        outputs: What both sides recorded; None for what the forms compute.
        bias: What both are given as ``bias``, ``(batch, 1, queries, keys)``.
        joined: Whether one projection holds queries, keys and values.
    """
    arrays = projections(max(source, target, key=lambda form: form.heads), head_dim=head_dim, length=length)
    if joined:
        arrays = {"qkv": np.concatenate(tuple(arrays.values()), -1)}
    masks = {} if mask is None else {"attention_mask": mask.astype(float)[:, None, None]}
    biases = {} if bias is None else {"bias": bias.astype(float)}
    parts = Parts({n: a.astype(float) for n, a in arrays.items()}, masks=masks, biases=biases)
    outputs = outputs or [with_noise(parts, form) for form in (source, target)]
    x = np.random.default_rng(1).normal(size=(2, length, 10)).astype(np.float32)
    heads = {"heads": source.heads, "kv_heads": source.kv_heads} if settings else {}
    views = []
    for output in outputs:
        children = [view((f"{n}_proj",), {"0": x}, {"": a}, kind="linear") for n, a in arrays.items()]
        children.append(view(("o_proj",), {"0": output}, {"": output}, kind="linear"))
        views.append(view((), {"0": x}, {"": output}, children=tuple(children), settings=heads))
    named = {"attention_mask": mask, "bias": bias}
    named = {name: array for name, array in named.items() if array is not None}
    given = Inputs((np.zeros((2, length), np.int32),), named)
    last = len(arrays)
    return Site(views[0], views[1], tuple((n, n) for n in range(last + 1)), last, control, given, given)


def layer_site(source, target, length=7, width=12):
    """Return the site of an attention that is one layer, such as `torch.nn.MultiheadAttention`."""
    r = np.random.default_rng(3)
    leaves = {}
    for name in ("query", "key", "value", "out"):
        leaves[f"{name}.kernel"] = r.normal(size=(width, width)) / width**0.5
        leaves[f"{name}.bias"] = r.normal(size=width)
    x = r.normal(size=(2, length, width))
    parts = Parts({f"x {n}": x for n in "qkv"}, leaves)
    outputs = []
    for form in (source, target):
        kernel = leaves["out.kernel"].T if "out.kernel transposed" in form.changes else leaves["out.kernel"]
        heads = attend(replace(parts, cache={}), form)
        outputs.append((heads @ kernel + leaves["out.bias"]).astype(np.float32))
    views = [
        view(
            ("attention",),
            {"0": x.astype(np.float32)},
            {"": y},
            kind="attention",
            neutral=leaves,
            settings={"heads": source.heads},
        )
        for y in outputs
    ]
    return Site(views[0], views[1], control=1e-7)


def site_of_arrays(inputs, source, target, *, weights=None, at=None, control=1e-7, children=(), pairs=()):
    """Return the site of one module with given inputs and outputs."""
    one, other = (
        view(
            ("module",),
            inputs,
            outputs,
            weights=weights or {},
            children=tuple(children) + ((at[n],) if at else ()),
        )
        for n, outputs in enumerate((source, target))
    )
    pairs = tuple((n, n) for n in range(len(children) + bool(at)))
    return Site(one, other, pairs, len(children) if at else None, control)

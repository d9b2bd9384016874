"""Sites made of arrays: what a proof would have recorded where two models part."""

import numpy as np

from bridge_core.proof.causes import ModuleView, Site

__all__ = ["between", "layer", "normal"]


def normal(*shape, seed=0):
    """Return random float32 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _native(array, framework, images):
    """Return an array as a framework has it: feature maps of torch have their channels first."""
    return np.moveaxis(array, -1, 1) if framework == "torch" and images and array.ndim > 2 else array


def layer(x, source, target, weights=(), *, kind=None, type="Layer", target_weights=None, **settings):
    """Return the site of one layer, all arrays with channels last; the source is torch, the target Flax.

    Args:
        x: What both were called with.
        source: What the source's layer returned.
        target: What the target's returned.
        weights: Neutral leaf, or the name of a weight if there is no kind -> value.
        kind: Layer kind; None for a layer of someone's own.
        type: Name of its class.
        target_weights: The target's; None for the same.
        settings: Settings of both.
    """
    views = []
    images = x.ndim > 3
    pairs = ((source, weights), (target, weights if target_weights is None else target_weights))
    for framework, (output, own) in zip(("torch", "flax"), pairs, strict=True):
        room = ("torch.nn.modules." if framework == "torch" else "flax.linen.") if kind else "mine."
        views.append(
            ModuleView(
                path=("block", "layer"),
                type=room + type,
                framework=framework,
                inputs={"0": _native(x, framework, images)},
                outputs={"": _native(output, framework, images)},
                settings=settings,
                weights={} if kind else {(name,): value for name, value in dict(own).items()},
                kind=kind,
                neutral=dict(own) if kind else {},
                channels="first" if framework == "torch" else "last",
            )
        )
    return Site(*views)


def between(x, children, source, target, weights=(), *, kinds=(), images=False, last=False):
    """Return the site of a module that computes something after its children.

    Args:
        x: What the module was called with.
        children: (input, output) of each child before, equal on both sides.
        source: What the source computed.
        target: What the target computed.
        weights: The module's own: name -> value.
        kinds: Place of a child -> its layer kind.
        images: Whether arrays are feature maps.
        last: Whether the array that differs is the module's output, not the input of a child.
    """
    views = []
    for framework, output in (("torch", source), ("flax", target)):
        pairs = [*children] if last else [*children, (output, output)]
        inside = [
            ModuleView(
                ("block", f"child{place}"),
                "mine.Norm" if dict(kinds).get(place) == "norm" else "mine.Child",
                framework,
                {"0": _native(first, framework, images)},
                {"": _native(second, framework, images)},
                kind=dict(kinds).get(place),
            )
            for place, (first, second) in enumerate(pairs)
        ]
        views.append(
            ModuleView(
                ("block",),
                "mine.Block",
                framework,
                {"0": _native(x, framework, images)},
                {"": _native(output, framework, images)},
                weights={(name,): value for name, value in dict(weights).items()},
                children=tuple(inside),
                channels="first" if framework == "torch" else "last",
            )
        )
    places = tuple((n, n) for n in range(len(views[0].children)))
    return Site(*views, places, None if last else len(children))

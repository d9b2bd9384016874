"""Makes docs/layers.md from the layer kinds and transforms of the registry."""

from __future__ import annotations

from pages.installed import distribution_of, provided

__all__ = ["page"]

HEAD = """# Layer kinds

A *kind* is what a layer is, whatever framework it comes from: the names of its leaves, and the axes of each in
[neutral form](neutral-form.md). A *transform* is how one framework stores a kind: other names, another order of axes,
several leaves in one tensor. This page is made from the registry, so it lists what is installed with ckptbridge and
its plugins. `ckptbridge plugins` lists what is installed on your machine. A layer of your own is [ten lines](plugins/write-a-layer.md).

How to read the axes ([the notation](axis-notation.md)): `out in` is a matrix with the axis `out` first. `*k` is any
number of axes, `+k` one or more: the taps of a convolution. `(q k v) in` is three parts, one after another along one
axis. `heads/2` is one axis of the kind that the framework stores as two. `1` is an axis of size one that the kind
does not have.

What has no counterpart is refused with the reason: a grouped transposed convolution, attention with `add_bias_kv`, a
projected LSTM. Some layers cannot be recognised in a bare file: see [known limits](right-or-refused.md#known-limits).

Flax's recurrent cells have one bias where torch has two. The sum is written, and the metadata preserves the parts: on the
way back each element whose sum is unchanged gets its two original values, bit for bit.

Tensors that belong to no layer, torch's `Parameter` and `register_buffer` and Flax's `param` and `Variable`, are
copied unchanged, if nothing else explains them; the report lists them.

## All kinds

| kind | PyTorch | Flax (Linen and NNX) |
|---|---|---|
"""

FRAMEWORKS = {"torch": "PyTorch", "flax": "Flax"}


def page():
    """Return the page."""
    kinds, transforms = provided("kinds"), provided("transforms")
    of_kind = {name: [one for one in transforms.values() if one.kind == name] for name in kinds}
    parts = [HEAD]
    for name, members in of_kind.items():
        cells = [_modules(one for one in members if one.framework == side) for side in FRAMEWORKS]
        parts.append(f"| [`{name}`](#{name}) | {cells[0]} | {cells[1]} |\n")
    for name, kind in kinds.items():
        parts.append(_kind(kind, of_kind[name], distribution_of("kinds", name)))
    return "".join(parts)


def _modules(transforms):
    """Return the types of modules that transforms are for, each once; or why there are none."""
    transforms = list(transforms)
    names = dict.fromkeys(_short(module) for one in transforms for module in one.modules)
    if names:
        return ", ".join(f"`{name}`" for name in names)
    return "by its leaves" if transforms else "has no such layer"


def _short(module):
    """Return the name by which people know a type.

    >>> _short("torch.nn.modules.linear.Linear"), _short("flax.nnx.nn.linear.Linear")
    ('nn.Linear', 'nnx.Linear')
    """
    package, name = module.split(".")[0], module.rpartition(".")[2]
    if package == "torch":
        package = "nn"
    elif package == "flax":
        package = module.split(".")[1]
    return f"{package}.{name}"


def _kind(kind, transforms, distribution):
    lines = [f"\n## {kind.name}\n"]
    if distribution != "ckptbridge":
        lines.append(f"With `{distribution}`.\n")
    lines += ["| leaf | axes | |", "|---|---|---|"]
    for leaf, axes in kind.leaves.items():
        lines.append(f"| `{leaf}` | {_axes(axes)} | {_about(kind, leaf)} |")
    for one in transforms:
        lines.append(f"\n**`{one.name}`**{_where(one)}\n")
        lines += ["| stored as | axes | holds |", "|---|---|---|"]
        for leaf in one.leaves:
            name = f"`{leaf.name}`" + (", if there is one" if leaf.optional else "")
            lines.append(f"| {name} | {_axes(leaf.axes)}{_flip(leaf)} | {_holds(leaf)} |")
        notes = [f"Not taken by any other framework: {one.unsupported}."] if one.unsupported else []
        notes += [f"No place for `{role}`: {why}." for role, why in one.unsupported_leaves.items()]
        notes += [f"{one.misfit_note[0].upper()}{one.misfit_note[1:]}."] if one.misfit_note else []
        lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _axes(text):
    return f"`{text}`" if text else "a number, no axes"


def _about(kind, leaf):
    """Return what a kind declares of a leaf in addition to its axes."""
    if leaf in kind.auxiliary_tensors:
        spec = kind.auxiliary_tensors[leaf]
        return f"auxiliary: {spec.dtype}, zero where none is stored"
    return "zeros, where only the target has it" if leaf in kind.zeros else ""


def _where(transform):
    """Return which modules a transform is for, and under which condition."""
    modules = ", ".join(f"`{_short(module)}`" for module in transform.modules)
    settings = ", ".join(f"`{name}={value!r}`" for name, value in transform.settings.items())
    text = f", of {modules}" if modules else ", by its leaves"
    text += f", where {settings}" if settings else ""
    if transform.needs_module:
        return f"{text}; only a live module shows it."
    return f"{text}; only a template shows it." if transform.needs_template else f"{text}."


def _flip(leaf):
    return f", `{'`, `'.join(leaf.flip)}` reversed" if leaf.flip else ""


def _holds(leaf):
    """Return the roles of a leaf, and what is summed into it."""
    roles = [f"`{role}`" for role in leaf.roles]
    if leaf.added_leaves:
        pairs = zip(roles, leaf.added_leaves, strict=True)
        roles = [f"{role} + `{added}`" for role, added in pairs]
    return ", ".join(roles)

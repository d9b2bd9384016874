"""A layer of one's own from the axes of its leaves in each framework: the kind and its transforms follow.

The leaves of the frameworks are paired by their axis names, never by their order: pairs that the names leave
open are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bridge_core.axes import Axis, parse_axes
from bridge_core.errors import PluginError
from bridge_core.layers.kinds import LayerKind
from bridge_core.layers.transforms import LayerTransform, Leaf
from bridge_core.messages import nearest

__all__ = ["CustomLayer", "custom_layer"]

ModuleTypes = type | str | Sequence[type | str]
_MAY_BE_MISSING = "?"
_NEUTRAL_NAMES = "flax"
"""The neutral form has the names and the order of axes of this framework, as in the built-in kinds."""


class CustomLayer(NamedTuple):
    """A layer kind, and its transforms in some frameworks; `Registry.extend` takes it.

    Args:
        kind: The kind, for `bridge_layer_kinds`.
        transforms: One transform for each framework, for `bridge_layer_transforms`.
    """

    kind: LayerKind
    transforms: tuple[LayerTransform, ...]


def custom_layer(
    kind: str,
    /,
    *,
    splits: Mapping[str, str] | None = None,
    needs_module: bool = False,
    **frameworks: tuple[ModuleTypes, Mapping[str, str]],
) -> CustomLayer:
    """Return a layer kind and its transforms, from the axes of each leaf in each framework.

    Leaves with the same axis names are one leaf of the kind, in whatever order each framework has the axes.
    Of several with the same axis names, those of the same name are. An axis ``(gate value)`` holds two leaves
    one after the other; another framework may have them as two, ``in gate`` and ``in value``. The neutral
    form has the names and the order of axes of ``flax``, or of the first framework where flax is none.

    Args:
        kind: A name for the kind, such as ``"gated_linear"``.
        splits: Axis that a framework splits (``heads/2``) -> the attribute of the modules that holds the
            number of parts. Without it, only a template shows the number.
        needs_module: Whether the layer counts only where a live module, a rule or the metadata shows it. By
            default a layer of a file whose leaves fit this one and another is undecided, and is refused until
            a module, a template or a rule decides.
        **frameworks: Name of a framework -> the types of its modules, and leaf name -> axis names. A type is
            a class, or its dotted name (``module.qualname``); a tuple for several, an empty one where layers
            have no type. A leaf name that ends in ``?`` may be missing.

    Raises:
        PluginError: A type is neither a class nor a dotted name, the axes are not in the notation, or a leaf
            does not have exactly one counterpart in each framework.

    >>> layer = custom_layer(
    ...     "bilinear",
    ...     torch=("my.Bilinear", {"weight": "out in1 in2", "bias?": "out"}),
    ...     flax=("my.FlaxBilinear", {"kernel": "in1 in2 out", "bias?": "out"}),
    ... )
    >>> layer.kind.leaves
    {'kernel': 'in1 in2 out', 'bias': 'out'}
    >>> [transform.name for transform in layer.transforms]
    ['torch.bilinear', 'flax.bilinear']
    """
    if not isinstance(kind, str):
        raise PluginError(f"expected a text as the name of a layer kind, got {kind!r}.")
    if len(frameworks) < 2:
        given = ", ".join(frameworks) or "none"
        raise PluginError(
            f"layer {kind!r}: expected the leaves of two frameworks or more, got those of {given}.",
            hint="Add the other one, flax=(FlaxModule, {...}). A layer of an existing kind needs only a "
            'transform: LayerTransform("torch.mine", "linear", leaves, modules).',
        )
    sides = [_side(kind, name, given) for name, given in frameworks.items()]
    reference = next((side for side in sides if side.framework == _NEUTRAL_NAMES), sides[0])
    roles = _roles(kind, reference, sides)
    optional = {role for side in sides for part, role in roles[side.framework].items() if part.optional}
    layer_kind = LayerKind(kind, _kind_leaves(roles, reference, sides))
    equal = _equal_axes(sides)
    transforms = tuple(
        LayerTransform(
            f"{side.framework}.{kind}",
            kind=kind,
            leaves=_leaves(side, roles[side.framework], optional),
            modules=side.modules,
            needs_module=needs_module,
            equal_axes=equal,
            axis_splits=dict(splits or {}),
            unsupported_leaves={
                role: f"the {kind} of {side.framework} has no {role}"
                for role in layer_kind.leaves
                if role not in roles[side.framework].values()
            },
        )
        for side in sides
    )
    from bridge_core.layers.transform_checks import check_transforms

    check_transforms(transforms, {kind: layer_kind})
    return CustomLayer(layer_kind, transforms)


@dataclass(frozen=True)
class _Part:
    """One leaf of a framework, or one part of a leaf that holds several."""

    leaf: str
    index: int
    axes: tuple[Axis, ...]
    optional: bool
    member: str

    @property
    def names(self) -> frozenset[str]:
        """Its axis names."""
        return frozenset(axis.name for axis in self.axes)

    def __str__(self) -> str:
        part = f", part {self.member!r}" if self.member else ""
        return f"{self.leaf!r} ({' '.join(axis.name for axis in self.axes) or 'no axes'}{part})"


@dataclass(frozen=True)
class _Side:
    """What one framework calls the layer and its leaves."""

    framework: str
    modules: tuple[str, ...]
    leaves: Mapping[str, str]
    parts: tuple[_Part, ...]


def _side(kind: str, framework: str, given: Any) -> _Side:
    if not isinstance(given, tuple | list) or len(given) != 2 or not isinstance(given[1], Mapping):
        raise PluginError(
            f"layer {kind!r}: expected {framework} to be the modules' type and the axes of each leaf, got "
            f"{given!r}.",
            hint=f'Write {framework}=(MyLayer, {{"weight": "out in"}}).',
        )
    types, leaves = given
    modules = tuple(_type_name(kind, framework, one) for one in _listed_types(types))
    parts: list[_Part] = []
    axes_of: dict[str, str] = {}
    for written, axes in leaves.items():
        if not isinstance(written, str) or not isinstance(axes, str):
            raise PluginError(
                f"layer {kind!r}: expected each leaf of {framework} as a name and its axes, both texts, got "
                f"{written!r}: {axes!r}."
            )
        name = written.removesuffix(_MAY_BE_MISSING)
        if name in axes_of:
            raise PluginError(f"layer {kind!r}: expected each leaf of {framework} once, got {name!r} twice.")
        axes_of[name] = axes
        parts += _parts(name, axes, written != name)
    if not parts or all(part.optional for part in parts):
        raise PluginError(
            f"layer {kind!r}: expected a leaf of {framework} that every such layer has, got "
            f"{', '.join(leaves) or 'none'}.",
            hint="Leave out the '?' of one leaf." if parts else 'Name the leaves: {"weight": "out in"}.',
        )
    return _Side(framework, modules, axes_of, tuple(parts))


def _listed_types(types: Any) -> Iterable[Any]:
    return types if isinstance(types, tuple | list) else (types,)


def _type_name(kind: str, framework: str, given: Any) -> str:
    """Return the dotted name by which a framework's metadata calls a module's type."""
    if isinstance(given, type):
        return f"{given.__module__}.{given.__qualname__}"
    if isinstance(given, str) and "." in given.strip(".") and not any(c.isspace() for c in given):
        return given
    if isinstance(given, str):
        hint = f"Pass the class itself, {given}, or its name with its module, 'my_package.layers.{given}'."
    else:
        hint = f"Pass its class: {type(given).__name__}."
    raise PluginError(
        f"layer {kind!r}: expected the type of {framework}'s modules, a class or its dotted name, got "
        f"{given!r}.",
        hint=hint,
    )


def _parts(name: str, text: str, optional: bool) -> Iterable[_Part]:
    axes = parse_axes(text)
    group = next((axis.members for axis in axes if len(axis.members) > 1), ())
    if len(set(group)) != len(group):
        raise PluginError(
            f"leaf {name!r}: expected a name of its own for each part of a group, got ({' '.join(group)}).",
            hint="Write (gate value), and on the other side 'in gate' and 'in value': that they are equally "
            "long follows.",
        )
    for index in range(max(1, len(group))):
        own = (
            Axis((axis.members[index],)) if len(axis.members) > 1 else axis
            for axis in axes
            if axis.name != "1"
        )
        yield _Part(name, index, tuple(own), optional, group[index] if group else "")


def _roles(kind: str, reference: _Side, sides: Sequence[_Side]) -> dict[str, dict[_Part, str]]:
    """Return, for each framework, the role of each part in the kind."""
    partners = {side.framework: _paired(kind, reference, side) for side in sides if side is not reference}
    names: dict[_Part, str] = {}
    for part in reference.parts:
        others = [pairs[part] for pairs in partners.values() if part in pairs]
        whole = next((one for one in (part, *others) if not one.member), None)
        names[part] = whole.leaf if whole is not None else f"{part.leaf}_{part.member}"
    roles = {reference.framework: names}
    for side in sides:
        if side is reference:
            continue
        back = {other: part for part, other in partners[side.framework].items()}
        roles[side.framework] = {
            part: names[back[part]] if part in back else _extra(part) for part in side.parts
        }
    dotted = {role: part for part, role in names.items() if "." in role}
    if not all(_is_of_a_linear_layer(role, part) for role, part in dotted.items()):
        roles = {
            side: {part: role.replace(".", "_") for part, role in own.items()} for side, own in roles.items()
        }
    for framework, own in roles.items():
        twice = [role for role in own.values() if list(own.values()).count(role) > 1]
        if twice:
            raise PluginError(
                f"layer {kind!r}: two leaves of {framework} would be the leaf {twice[0]!r} of the kind.",
                hint="Give the leaves of the frameworks different names.",
            )
    return roles


def _extra(part: _Part) -> str:
    return f"{part.leaf}_{part.member}" if part.member else part.leaf


def _is_of_a_linear_layer(role: str, part: _Part) -> bool:
    """Return whether a leaf of a nested module is one of a linear layer, in which a kind can be split."""
    ranks = {"kernel": 2, "bias": 1}
    plain = all(not axis.variable for axis in part.axes)
    return plain and ranks.get(role.rpartition(".")[2]) == len(part.axes)


def _paired(kind: str, one: _Side, other: _Side) -> dict[_Part, _Part]:
    """Return the parts of one framework with those of another that have the same axis names."""
    pairs: dict[_Part, _Part] = {}
    for names in dict.fromkeys(part.names for part in (*one.parts, *other.parts)):
        left = {(part.leaf, part.member): part for part in one.parts if part.names == names}
        right = {(part.leaf, part.member): part for part in other.parts if part.names == names}
        for name in left.keys() & right.keys():
            pairs[left.pop(name)] = right.pop(name)
        if len(left) > 1 or len(right) > 1:
            if left and right:
                raise _ambiguous(kind, (one, left.values()), (other, right.values()))
        elif left and right:
            pairs[next(iter(left.values()))] = next(iter(right.values()))
    taken = {*pairs, *pairs.values()}
    for side, against in ((one, other), (other, one)):
        for part in side.parts:
            if part not in taken and not part.optional:
                raise _alone(kind, side, part, against, [p for p in against.parts if p not in taken])
    for left_part, right_part in pairs.items():
        _check_spreads(kind, (one, left_part), (other, right_part))
    return pairs


def _ambiguous(kind: str, *sides: tuple[_Side, Iterable[_Part]]) -> PluginError:
    texts = [f"{', '.join(map(str, parts))} of {side.framework}" for side, parts in sides]
    return PluginError(
        f"layer {kind!r}: the axes do not show which of the leaves belong together: {' and '.join(texts)}.",
        hint="Give each pair axis names of its own on both sides, such as 'out in' and 'out_2 in_2'.",
    )


def _alone(kind: str, side: _Side, part: _Part, against: _Side, free: Sequence[_Part]) -> PluginError:
    """Return the error for a leaf without a counterpart; the nearest leaf shows which name differs."""
    problem = f"layer {kind!r}: the leaf {part} of {side.framework} has no counterpart in {against.framework}"
    near = max(free, key=lambda other: (len(other.names & part.names), other.leaf == part.leaf), default=None)
    if near is None or not (near.names & part.names or near.leaf == part.leaf):
        return PluginError(
            f"{problem}.",
            hint=f"Name it for {against.framework}, with the same axis names; or write "
            f"{part.leaf + _MAY_BE_MISSING!r} if the layers of {against.framework} have none.",
        )
    own, others = sorted(part.names - near.names), sorted(near.names - part.names)
    only = [
        f"{' and '.join(map(repr, names))} only in {where.framework}"
        for names, where in ((own, side), (others, against))
        if names
    ]
    question = nearest(own[0], others) if own and others else ""
    question = question if question.startswith("Did") else ""
    if (part.member or near.member) and not question:
        question = (
            f"The parts of a group are axes: the leaf of {near.member or part.member!r} has that axis on the "
            "other side, too."
        )
    return PluginError(
        f"{problem}: of its axes and those of {near}, {', '.join(only)}.",
        hint=f"Use the same axis names on both sides, and 1 for an axis of size one. {question}".strip(),
    )


def _check_spreads(kind: str, *sides: tuple[_Side, _Part]) -> None:
    """Refuse an axis that is any number of axes in one framework and one axis in the other."""
    (one, left), (other, right) = sides
    spreads = {axis.name: axis.spread for axis in right.axes}
    for axis in left.axes:
        if bool(axis.spread) != bool(spreads[axis.name]):
            raise PluginError(
                f"layer {kind!r}: expected {axis.name!r} to be any number of axes on both sides or on none, "
                f"got '{axis.spread}{axis.name}' in {left.leaf!r} of {one.framework} and "
                f"'{spreads[axis.name]}{axis.name}' in {right.leaf!r} of {other.framework}."
            )


def _kind_leaves(
    roles: Mapping[str, Mapping[_Part, str]], reference: _Side, sides: Sequence[_Side]
) -> dict[str, str]:
    """Return the axes of each leaf of the kind: in the reference's order, none of them split."""
    leaves: dict[str, str] = {}
    for side in (reference, *sides):
        for part, role in roles[side.framework].items():
            leaves.setdefault(role, " ".join(f"{axis.spread}{axis.name}" for axis in part.axes))
    return leaves


def _equal_axes(sides: Iterable[_Side]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of axes that have one size, since they are parts of one tensor in some framework."""
    same_as: dict[str, str] = {}
    for side in sides:
        first: dict[str, str] = {}
        for part in side.parts:
            if part.member and first.setdefault(part.leaf, part.member) != part.member:
                one, other = (same_as.get(name, name) for name in (first[part.leaf], part.member))
                same_as.update(
                    (name, one) for name in (*same_as, part.member) if same_as.get(name, name) == other
                )
    return tuple((root, name) for name, root in same_as.items() if name != root)


def _leaves(side: _Side, roles: Mapping[_Part, str], optional: set[str]) -> tuple[Leaf, ...]:
    leaves = []
    for name, axes in side.leaves.items():
        own = tuple(roles[part] for part in side.parts if part.leaf == name)
        role = own if len(own) > 1 else own[0]
        leaves.append(Leaf(name, role, axes, optional=any(one in optional for one in own)))
    return tuple(leaves)

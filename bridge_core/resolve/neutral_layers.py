"""The layers of a neutral state, with every view that its metadata, or its names, leave open."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from bridge_core.axes import Shape
from bridge_core.layers import LayerKind, LayerTransform, Leaf
from bridge_core.plugins import Registry
from bridge_core.resolve.evidence import PARAMETER, Reader, Reading
from bridge_core.resolve.grouping import Group
from bridge_core.resolve.interpretations import View, native_views, neutral_view, parameter_view
from bridge_core.rules import Rule
from bridge_core.state import FlatState, Key, LayerInfo

__all__ = ["NeutralLayer", "neutral_layers"]

_CERTAIN: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "embedding": (),
    "norm": ("scale", "bias"),
    "batch_norm": ("mean", "var"),
    "weight_norm": ("g", "v"),
    "prelu": (),
}


@dataclass(frozen=True, slots=True)
class NeutralLayer:
    """One group of a neutral state.

    Args:
        group: Its leaves.
        views: How it can be read.
        reading: What decided it; a reading without transform and candidates is plain parameters.
        kind: Its kind, None while undecided.
        claimed: Names of the leaves that belong to the layer.
        factors: How axes of its kind are split where it comes from.
        transforms: Framework -> transform that the layer was spelt with.
        rule: Where the rule stands that settled it here; empty if none did.
    """

    group: Group
    views: tuple[View, ...]
    evidence: str
    kind: str | None
    claimed: tuple[str, ...]
    candidates: tuple[LayerTransform | None, ...]
    transforms: Mapping[str, str]
    axis_splits: Mapping[str, Shape]
    rule: str = ""

    @property
    def unsupported(self) -> LayerTransform | None:
        """The only thing it can be, where no other framework takes that."""
        known = self.candidates[0] if len(self.candidates) == 1 else None
        return known if known is not None and known.unsupported else None


def neutral_layers(
    state: FlatState,
    registry: Registry,
    rules: Iterable[Rule],
    *,
    together: Mapping[Key, str] | None = None,
    apart: Collection[Key] = (),
) -> dict[Key, NeutralLayer]:
    """Return the layers by path, in the state's order.

    Args:
        state: The neutral state.
        registry: Where kinds and transforms are found.
        rules: Rules that fix kinds.
        together: Path -> composite kind, where layers are to be read as one.
        apart: Paths of composite layers that are to be read as the layers they hold.
    """
    reader = Reader(_neutral_transforms(registry.kinds.values()), "neutral", rules)
    known: dict[object, tuple[View, ...]] = {}
    result = {}
    for path, group in _groups(state, registry, together or {}, apart).items():
        rule = reader.rule_of(path)
        info = group.info
        if rule is not None and rule.kind is not None:
            info = _ruled(rule.kind, group, info, registry)
        if info is None:
            reading = reader.read(group)
            info = _info(reading, group)
        settled = rule if info is not group.info and info.evidence == "rule" else None
        candidates = tuple(
            None if name == PARAMETER else registry.transforms[name]
            for name in info.candidates
            if name == PARAMETER or name in registry.transforms
        )
        specs = group.specs
        signature = (
            tuple((name, spec.shape) for name, spec in specs.items()),
            info.kind,
            info.evidence,
            info.leaves,
            info.candidates,
            tuple(info.transforms.items()),
            tuple(info.axis_splits.items()),
        )
        views = known.get(signature)
        if views is None:
            views = known[signature] = _views(group, info, candidates, registry)
        result[path] = NeutralLayer(
            group,
            views,
            info.evidence,
            info.kind,
            info.leaves,
            candidates,
            info.transforms,
            info.axis_splits,
            settled.label if settled is not None else "",
        )
    return result


def _groups(
    state: FlatState, registry: Registry, together: Mapping[Key, str], apart: Collection[Key]
) -> dict[Key, Group]:
    known = {path: info for path, info in state.metadata.layers.items() if path not in apart}
    for path in apart:
        known.update(_parts(path, state.metadata.layers.get(path)))
    for path, kind in together.items():
        known[path] = _joined(path, registry.kinds[kind], state)
    nested = {
        (*path, *leaf.split(".")): (path, leaf)
        for path, info in known.items()
        for leaf in info.leaves
        if "." in leaf
    }
    groups: dict[Key, Group] = {}
    for key in state:
        path, leaf = nested.get(key) or (key[:-1], key[-1])
        group = groups.get(path)
        if group is None:
            group = groups[path] = Group(path, info=known.get(path))
        group.keys[leaf] = key
        group.specs[leaf] = state.spec(key)
    for path, group in groups.items():
        if group.info is not None and not set(group.info.leaves) <= set(group.keys):
            group.info = None
        for depth in range(len(path)):
            parent = groups.get(path[:depth])
            if parent is not None:
                parent.has_children = True
    return groups


def _parts(path: Key, info: LayerInfo | None) -> dict[Key, LayerInfo]:
    """Return what is known of the layers that a composite one holds: all are linear."""
    leaves: dict[str, list[str]] = {}
    for leaf in info.leaves if info is not None else ():
        inner, _, name = leaf.rpartition(".")
        leaves.setdefault(inner, []).append(name)
    return {
        (*path, *inner.split(".")): LayerInfo("linear", info.evidence if info else "", tuple(names))
        for inner, names in leaves.items()
    }


def _joined(path: Key, kind: LayerKind, state: FlatState) -> LayerInfo:
    """Return what stands for a composite layer whose parts are layers of their own so far."""
    known = state.metadata.layers.get(path)
    if known is not None and known.kind == kind.name:
        return known
    leaves = tuple(role for role in kind.leaves if (*path, *role.split(".")) in state)
    return LayerInfo(kind.name, "template", leaves)


def _views(
    group: Group,
    info: LayerInfo,
    candidates: tuple[LayerTransform | None, ...],
    registry: Registry,
) -> tuple[View, ...]:
    if info.kind is None:
        reading = Reading("undecided", candidates=candidates, claimed=info.leaves)
        return native_views(reading, registry.kinds, group.specs)
    kind = registry.kinds.get(info.kind)
    if kind is None:
        return (parameter_view(group.specs),)
    found = [neutral_view(kind, group.specs, info.leaves, info.axis_splits)]
    for name in info.transforms.values():
        raw = registry.transforms.get(name)
        if raw is not None and raw.kind == info.kind and info.evidence not in ("rule", "module"):
            found.append(neutral_view(kind, group.specs, info.leaves, info.axis_splits, raw=raw))
    return tuple(view for view in found if view is not None)


def _ruled(kind: str, group: Group, info: LayerInfo | None, registry: Registry) -> LayerInfo | None:
    """Let a rule settle an undecided layer; a decided one was ruled on before."""
    if info is None or info.kind is not None:
        return info
    fitting = [
        transform
        for name in info.candidates
        if (transform := registry.transforms.get(name)) is not None and transform.kind == kind
    ]
    if not fitting:
        return info
    return LayerInfo(None, "rule", info.leaves, (fitting[0].name,), info.transforms)


def _info(reading: Reading, group: Group) -> LayerInfo:
    if reading.transform is not None:
        return LayerInfo(
            reading.transform.kind, reading.evidence, reading.claimed, axis_splits=reading.axis_splits
        )
    if reading.candidates:
        names = tuple(c.name if c is not None else PARAMETER for c in reading.candidates)
        return LayerInfo(None, "undecided", reading.claimed, names)
    return LayerInfo(PARAMETER, reading.evidence, tuple(group.keys))


def _neutral_transforms(kinds: Iterable[LayerKind]) -> list[LayerTransform]:
    """Spell every kind in its own names, for neutral states that carry no metadata."""
    return [
        LayerTransform(
            f"neutral.{kind.name}",
            kind.name,
            tuple(
                Leaf(role, role, axes, optional=role.endswith("bias") or role in kind.auxiliary_tensors)
                for role, axes in kind.leaves.items()
            ),
            identifying_leaves=_CERTAIN.get(kind.name),
            only_leaves=kind.name == "norm",
        )
        for kind in kinds
    ]

"""The layers of a neutral state, each with every interpretation that metadata or names leave possible.

Both ways to a framework start from these: a decided layer in its kind's own form, an undecided one in all
layouts that it may have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge_core.axes import Shape
from bridge_core.errors import KeyConflict
from bridge_core.layers import LayerKind, LayerTransform, Leaf
from bridge_core.messages import nearest
from bridge_core.plugins import Registry, composite_layers, unnamed_parts
from bridge_core.resolve.evidence import PARAMETER, Detection, Detector
from bridge_core.resolve.grouping import Group, note_children, note_shapes
from bridge_core.resolve.interpretations import (
    Interpretation,
    native_interpretations,
    neutral_interpretation,
    parameter_interpretation,
)
from bridge_core.resolve.neutral_records import NeutralRecords
from bridge_core.state import FlatState, Key, LayerInfo, StateMetadata, join_key, leaf_path

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["NeutralLayer", "neutral_layers"]

_IDENTIFYING_LEAVES: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "embedding": (),
    "norm": ("scale", "bias"),
    "batch_norm": ("mean", "var"),
    "weight_norm": ("g", "v"),
    "prelu": (),
}


class NeutralLayer(NamedTuple):
    """One layer of a neutral state.

    Args:
        group: The leaves at its path, those of the layer and others.
        interpretations: Every way to read it.
        evidence: The evidence that decided it; ``undecided`` or ``unclaimed`` if none did.
        kind: Its kind; None while undecided or unclaimed.
        leaves: Names of the leaves that belong to the layer.
        candidates: Transforms that remain possible while undecided; None among them is plain parameters.
        transforms: Framework -> transform of the layout that the layer had there.
        axis_splits: Axis of the kind -> the sizes into which it is split where the layer comes from.
        unclaimed: Names of the leaves that no evidence explains.
        origin: Framework that names and axes of undecided and unclaimed leaves are of; empty if unknown.
        misfits: Transforms for the type of its module, which the leaves do not fit.
        missing: Kind or transform that the metadata names and that no plugin provides.
        doubted: Whether, while undecided, its axes may be in another order than its candidates have them.
        family: What it has in common with the layers of the same record and shapes, and with no others;
            compared by identity.
        rule: Label of the rule that decided it here; empty if none did.
        part_of: Composite kind of which the layer may be a part; empty if that is decided.
    """

    group: Group
    interpretations: tuple[Interpretation, ...]
    evidence: str
    kind: str | None
    leaves: tuple[str, ...]
    candidates: tuple[LayerTransform | None, ...]
    transforms: Mapping[str, str]
    axis_splits: Mapping[str, Shape]
    unclaimed: tuple[str, ...]
    origin: str
    misfits: tuple[LayerTransform, ...]
    missing: str
    doubted: bool
    family: object
    rule: str
    part_of: str

    @property
    def unsupported(self) -> LayerTransform | None:
        """The only transform that remains possible, if no other framework has such a layer."""
        only = self.candidates[0] if len(self.candidates) == 1 else None
        return only if only is not None and only.unsupported else None


def neutral_layers(
    state: FlatState,
    registry: Registry,
    rules: Iterable[Rule],
    *,
    merged_paths: Mapping[Key, str] | None = None,
    split_paths: Collection[Key] = (),
) -> dict[Key, NeutralLayer]:
    """Return the layers by path, in the state's order.

    Args:
        state: The neutral state.
        registry: Where kinds and transforms are found.
        rules: Rules that fix kinds.
        merged_paths: Path -> composite kind, where the layers below are read as one.
        split_paths: Paths of composite layers that are read as the layers they hold.

    Raises:
        KeyConflict: Two keys name one leaf of a layer.
    """
    neutral = {t.name: t for t in _neutral_transforms(registry.kinds.values())}
    detector = Detector(neutral.values(), "neutral", rules)
    records = NeutralRecords(state, registry, neutral)
    readings = _Readings(registry, records)
    layers = {}
    groups = _groups(state, records, registry, merged_paths or {}, split_paths)
    open_paths = [path for path, group in groups.items() if group.info is None]
    part_of = _composite_parts(groups, open_paths, registry) if open_paths else {}
    for path, group in groups.items():
        rule = detector.rule_of(path) if detector.rules else None
        info = group.info
        if rule is not None and rule.kind is not None:
            _check_rule(rule, path, info, registry)
            info = _ruled(rule.kind, info, registry)
        if info is None:
            info = _detected(detector, group)
        decided_here = rule is not None and info is not group.info and info.evidence == "rule"
        label = rule.label if rule is not None and decided_here else ""
        layers[path] = readings.of(group, info, label, part_of.get(path, ""))
    return layers


def _groups(
    state: FlatState,
    records: NeutralRecords,
    registry: Registry,
    merged_paths: Mapping[Key, str],
    split_paths: Collection[Key],
) -> dict[Key, Group]:
    composite_kinds = {kind.name for kind in registry.kinds.values() if kind.composite}
    infos = {
        path: info
        for path, info in state.metadata.layers.items()
        if path not in split_paths
        and not (info.kind in composite_kinds and unnamed_parts(path, info, state, registry))
    }
    for path in split_paths:
        infos.update(_parts(path, state.metadata.layers.get(path)))
    for path, kind in merged_paths.items():
        infos[path] = _merged(path, registry.kinds[kind], state)
    specs = state.specs()
    owners = StateMetadata(layers=infos).owners(specs)
    groups: dict[Key, Group] = {}
    for (path, leaf), (key, spec) in zip(owners, specs.items(), strict=True):
        group = groups.get(path)
        if group is None:
            groups[path] = Group(path, {leaf: key}, {leaf: spec}, (), False, None, infos.get(path))
            continue
        if leaf in group.keys:
            raise KeyConflict(
                f"expected one key for the leaf {leaf!r} of the layer {join_key(path)!r}, got two: "
                f"{group.keys[leaf]!r} and {key!r}.",
                hint="Rename one of them, state.rename(...), or leave it out, state.select(...).",
            )
        group.keys[leaf] = key
        group.specs[leaf] = spec
    note_shapes(groups)
    fitted: dict[object, LayerInfo | None] = {}
    for group in groups.values():
        if group.info is not None:
            signature = (id(group.info), id(group.shapes))
            if signature not in fitted:
                fitted[signature] = records.fitted(group.info, group.specs)
            group.info = fitted[signature]
    note_children(groups)
    return groups


def _composite_parts(
    groups: Mapping[Key, Group], open_paths: Iterable[Key], registry: Registry
) -> dict[Key, str]:
    """Return the paths without a record that hold a part of what may be one composite layer."""
    specs = {leaf_path(path, name): spec for path in open_paths for name, spec in groups[path].specs.items()}
    return {
        leaf_path(path, role)[:-1]: kind
        for path, kind in composite_layers(specs, registry).items()
        for role in registry.kinds[kind].leaves
    }


def _parts(path: Key, info: LayerInfo | None) -> dict[Key, LayerInfo]:
    """Return what is known of the layers that a composite one holds: all are linear."""
    leaves: dict[str, list[str]] = {}
    for leaf in info.leaves if info is not None else ():
        part, _, name = leaf.rpartition(".")
        leaves.setdefault(part, []).append(name)
    evidence = info.evidence if info is not None else ""
    return {
        leaf_path(path, part): LayerInfo("linear", evidence, tuple(names)) for part, names in leaves.items()
    }


def _merged(path: Key, kind: LayerKind, state: FlatState) -> LayerInfo:
    """Return the info of a composite layer whose parts are layers of their own in the state."""
    info = state.metadata.layers.get(path)
    if info is not None and info.kind == kind.name:
        return info
    leaves = tuple(role for role in kind.leaves if leaf_path(path, role) in state)
    return LayerInfo(kind.name, "template", leaves)


class _Readings:
    """What layers are read as, once for those of a family."""

    def __init__(self, registry: Registry, records: NeutralRecords) -> None:
        self._registry = registry
        self._records = records
        self._found: dict[object, tuple[Interpretation, ...]] = {}
        self._families: dict[object, NeutralLayer] = {}
        self._of_record: dict[object, tuple[LayerInfo, tuple[Any, ...]]] = {}

    def of(self, group: Group, info: LayerInfo, rule: str, part_of: str) -> NeutralLayer:
        """Return the layer of a group and its record, with every way to read it."""
        shared = (id(info), id(group.shapes))
        known = self._of_record.get(shared)
        if known is None:
            # Of a layer that is like another, only the group, the rule and what it is a part of are its own.
            known = self._of_record[shared] = (info, self._first(group, info)[1:-2])
        return NeutralLayer._make((group, *known[1], rule, part_of))

    def _first(self, group: Group, info: LayerInfo) -> NeutralLayer:
        """Return the layer that stands for its family; equal records may be several objects."""
        signature = (
            group.shapes,
            info.kind,
            info.evidence,
            info.leaves,
            info.candidates,
            tuple(info.transforms.items()),
            tuple(info.axis_splits.items()),
        )
        candidates, misfits, missing = self._records.named(info)
        if signature not in self._found:
            self._found[signature] = _interpretations(group, info, candidates, self._registry)
        family = (signature, info.unclaimed, info.origin, info.doubted)
        if family in self._families:
            return self._families[family]
        layer = self._families[family] = NeutralLayer(
            group,
            self._found[signature],
            info.evidence,
            info.kind,
            info.leaves,
            candidates,
            info.transforms,
            info.axis_splits,
            info.unclaimed,
            info.origin,
            misfits,
            missing,
            info.doubted,
            object(),
            rule="",
            part_of="",
        )
        return layer


def _interpretations(
    group: Group,
    info: LayerInfo,
    candidates: tuple[LayerTransform | None, ...],
    registry: Registry,
) -> tuple[Interpretation, ...]:
    if info.kind is None:
        native = [c for c in candidates if c is None or c.framework != "neutral"]
        undecided = Detection("undecided", candidates=tuple(native), leaves=info.leaves)
        interpretations = (
            list(native_interpretations(undecided, registry.kinds, group.specs)) if native else []
        )
        for candidate in candidates:
            if candidate is not None and candidate.framework == "neutral":
                leaves = [name for name in info.leaves if name in candidate.by_name()]
                interpretation = neutral_interpretation(
                    registry.kinds[candidate.kind], group.specs, leaves, {}
                )
                interpretations += [interpretation] if interpretation is not None else []
        return tuple(interpretations) or (parameter_interpretation(group.specs),)
    kind = registry.kinds.get(info.kind)
    if kind is None:
        return (parameter_interpretation(group.specs),)
    layouts: list[LayerTransform | None] = [None]
    if info.evidence not in ("rule", "module"):
        transforms = (registry.transforms.get(name) for name in info.transforms.values())
        layouts += [t for t in transforms if t is not None and t.kind == info.kind]
    readings = (
        neutral_interpretation(kind, group.specs, info.leaves, info.axis_splits, raw=layout)
        for layout in layouts
    )
    return tuple(reading for reading in readings if reading is not None)


def _check_rule(rule: Rule, path: Key, info: LayerInfo | None, registry: Registry) -> None:
    """Check that a rule names a kind that there is, and does not contradict what was decided before."""
    kinds = (*registry.kinds, PARAMETER)
    if rule.kind not in kinds:
        error = rule.error(f"unknown kind {rule.kind!r} of layers.")
        error.hint = nearest(rule.kind or "", kinds)
        raise error
    if info is not None and info.kind is not None and info.evidence != "rule" and info.kind != rule.kind:
        error = rule.error(
            f"the neutral form has {join_key(path)!r} as {info.kind!r}, by the evidence {info.evidence!r}.",
            path,
        )
        error.hint = "Pass the rule to the step that makes the neutral form."
        raise error


def _ruled(kind: str, info: LayerInfo | None, registry: Registry) -> LayerInfo | None:
    """Let a rule decide an undecided layer; for a decided one, rules were asked before."""
    if info is None or info.kind is not None:
        return info
    transforms = (registry.transforms.get(name) for name in info.candidates)
    fitting = next((t for t in transforms if t is not None and t.kind == kind), None)
    if fitting is None and kind == PARAMETER:
        return replace(
            info, kind=PARAMETER, evidence="rule", leaves=(*info.leaves, *info.unclaimed), unclaimed=()
        )
    return info if fitting is None else replace(info, evidence="rule", candidates=(fitting.name,))


def _detected(detector: Detector, group: Group) -> LayerInfo:
    """Return the record of a layer that has none, by names and shapes, in neutral names."""
    detection = detector.detect(group)
    evidence, transform = detection.evidence, detection.transform
    if detection.is_parameters:
        return LayerInfo(PARAMETER, evidence, tuple(group.keys))
    unclaimed = tuple(name for name in group.keys if name not in detection.leaves)
    kind = transform.kind if transform is not None else None
    return LayerInfo(
        kind,
        evidence,
        detection.leaves,
        detection.candidate_names,
        axis_splits=detection.axis_splits,
        unclaimed=unclaimed,
    )


def _neutral_transforms(kinds: Iterable[LayerKind]) -> list[LayerTransform]:
    """Return a transform for each kind in its own names, for neutral states without metadata."""
    return [
        LayerTransform(
            f"neutral.{kind.name}",
            kind.name,
            tuple(
                Leaf(role, role, axes, optional=_is_optional(kind, role))
                for role, axes in kind.leaves.items()
            ),
            identifying_leaves=_IDENTIFYING_LEAVES.get(kind.name),
            only_leaves=kind.name == "norm",
        )
        for kind in kinds
    ]


def _is_optional(kind: LayerKind, role: str) -> bool:
    return (
        role.endswith("bias")
        or role in kind.auxiliary_tensors
        or (kind.name, role) == ("batch_norm", "scale")
        or (kind.name.startswith("spectral_norm") and role in ("v", "sigma"))  # frameworks store one of them
    )

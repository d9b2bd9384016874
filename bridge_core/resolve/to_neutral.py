"""A framework's state -> neutral: decide what evidence decides, and carry the rest undecided.

This direction never refuses, and guesses only if asked to: an undecided layer has the source's names and axes
in neutral form, and its candidates in the metadata, so that the target may still decide it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge_core.axes import Shape
from bridge_core.errors import KeyConflict
from bridge_core.layers import LayerTransform, Leaf, cut_of, part_ops
from bridge_core.ops import Fill, Op, Parallel, SplitSum, simplify_chain
from bridge_core.plan import Dropped, Plan, PlanProblems, Step, quick_step
from bridge_core.plugins import Registry, names_of, random_state_of, undetermined_layout
from bridge_core.resolve.evidence import PARAMETER, Detection, Detector
from bridge_core.resolve.grouping import Group, group_state
from bridge_core.resolve.layer_info import layer_info, parameter_evidence
from bridge_core.resolve.leaf_names import LayerNames
from bridge_core.resolve.neutral_renames import plan_renames
from bridge_core.resolve.rule_names import applied_renames, labels, rule_names
from bridge_core.state import (
    AuxiliaryTensor,
    FlatState,
    Key,
    LayerInfo,
    RecordedRule,
    StateMetadata,
    TensorSpec,
    join_key,
    leaf_path,
    module_path,
)

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["plan_to_neutral"]


def plan_to_neutral(
    state: FlatState,
    registry: Registry,
    *,
    rules: Iterable[Rule] = (),
    accept_guesses: bool = False,
    config: Mapping[str, Any] | None = None,
    to: str = "neutral",
    like: FlatState | None = None,
) -> Plan:
    """Return the plan from a framework's state, or from a neutral one, to the neutral form.

    A tensor that a rule rearranges is copied under its own name: the rule needs the target's shapes.

    Args:
        state: The source; its layout names the framework, its metadata may contain module types.
        registry: Where kinds and transforms are found.
        rules: The rules, in the direction of the conversion; patterns see keys without a collection, and may
            begin with one. Those that a neutral state was made with are not done again.
        accept_guesses: Whether names may decide what no evidence does.
        config: The checkpoint's config, if one is known.
        to: The framework that the neutral form is made for; neutral if it is not known.
        like: The target's template, if it is known.

    Raises:
        UsageError: The layout cannot be determined.
        RuleError: Two rules match one key, or a rule does not fit.
        KeyConflict: Two leaves would get one neutral key, or the keys do not show whether they begin with
            variable collections.
    """
    if state.layout is None:
        raise undetermined_layout(state, registry)
    if () in state:
        raise KeyConflict("expected a name for each tensor, got the empty key ().", hint="Rename the tensor.")
    rules = tuple(rules)
    if rules:
        from bridge_core.resolve.recorded_rules import rules_from, rules_towards
    if state.layout == "neutral":
        return plan_renames(
            state, rules_towards(state, rules, registry, to, config) if rules else None, config
        )
    if rules:
        rules = rules_from(state, rules, registry, config, to, like)
    targets = None
    if like is not None and any(rule.when.of_target and rule.when.needs_shape for rule in rules):
        names = names_of(like, registry.framework(to)).names(like)
        targets = {name: like.spec(key) for key, name in names.items()}
    return _ToNeutral(state, registry, rules, accept_guesses, config, targets).plan()


def _refuse_nameless(names: Mapping[Key, Key]) -> None:
    for key, name in names.items():
        if not name:
            raise KeyConflict(
                "the name is only a variable collection, and a tensor in a collection needs a name of its "
                "own.",
                key=key,
                hint=(
                    "Rename the tensor, or record in the metadata's tree_form that names have no collections."
                ),
            )


class _LeafMove(NamedTuple):
    """How a leaf is converted, wherever its layer is.

    Args:
        roles: Its keys in neutral form, below the layer's path.
        ops: From the leaf to them.
        kind: As in a step.
        evidence: As in a step.
        collection: The collection that such a leaf is usually in.
    """

    roles: tuple[Key, ...]
    ops: tuple[Op, ...]
    kind: str
    evidence: str
    collection: str


class _ToNeutral:
    """The plan of one framework's state; `plan` shows the order of the work."""

    def __init__(
        self,
        state: FlatState,
        registry: Registry,
        rules: tuple[Rule, ...],
        accept_guesses: bool,
        config: Mapping[str, Any] | None,
        targets: Mapping[Key, TensorSpec] | None,
    ) -> None:
        self.state = state
        self.targets = targets
        self.kinds = registry.kinds
        self.framework = registry.framework(state.layout or "")
        self.transforms = registry.checked_transforms_of.get(self.framework.name, ())
        self.collections = names_of(state, self.framework)
        self._recorded_collections = state.metadata.collections
        self._has_collections = self.collections.present or bool(self._recorded_collections)
        self._has_boxes = bool(self.collections.boxed or state.metadata.boxes)
        self.default_collections = {next(iter(f.collections), "") for f in registry.frameworks.values()}
        self.rules = rules
        self.config = config
        self.accept_guesses = accept_guesses
        self.detector = Detector(self.transforms, self.framework.name, rules)
        here = self.framework.name
        self._own_names = [LayerNames(registry, here, name) for name in registry.frameworks if name != here]
        self._way_back = LayerNames(registry, "", here)
        self._part_ops: dict[object, tuple[tuple[tuple[Op, ...], Shape], ...]] = {}
        self._readings: dict[object, tuple[Detection, tuple[tuple[_LeafMove, ...], LayerInfo]]] = {}
        self.steps: list[Step] = []
        self.layers: dict[Key, LayerInfo] = {}
        self.unusual_collections: dict[Key, str] = {}
        self.boxes: dict[Key, str] = {}
        self.source_keys: dict[Key, Key] = {}
        self.new_paths: dict[Key, Key] = {}

    def plan(self) -> Plan:
        specs = self.state.specs()
        names = self.collections.names(self.state)
        _refuse_nameless(names)
        ruled = rule_names(names, specs, self.rules, self.config, targets=self.targets)
        random = random_state_of(self.state, self.framework, self.collections) - ruled.dropped.keys()
        taken = {*ruled.dropped, *ruled.rearranged, *random}
        rest = self.state.select(lambda key: key not in taken) if taken else self.state
        groups = group_state(rest, self.framework, self.transforms, ruled.names, collections=self.collections)
        detections = self.detector.detect_all(groups)
        for path, group in groups.items():
            detection = detections[path]
            if self.accept_guesses and detection.candidates:
                detection = self.detector.guess(group, detection)
            self._add_layer(group, detection, ruled.renamed)
        for key, rule in ruled.rearranged.items():
            self._add_rearranged(key, names[key], rule)
        for key, auxiliary in rest.metadata.auxiliary_tensors.items():
            self._restore(key, TensorSpec(auxiliary.shape, auxiliary.array().dtype))
        return Plan(
            self.framework.name,
            "neutral",
            specs,
            tuple(self.steps),
            (
                *(Dropped(key, reason) for key, reason in ruled.dropped.items()),
                *(Dropped(key, "random state, not weights") for key in self.state if key in random),
            ),
            problems=PlanProblems(
                unmatched_rules=(
                    *ruled.unmatched,
                    *self.detector.unmatched_rules(),
                )
            ),
            notes=ruled.notes,
            metadata=self._metadata().with_(rules=self._recorded(ruled.rearranged, names)),
        )

    def _recorded(self, rearranged: Mapping[Key, Rule], names: Mapping[Key, Key]) -> tuple[RecordedRule, ...]:
        if not self.rules:
            return ()
        from bridge_core.resolve.recorded_rules import recorded_rules

        return recorded_rules(self.rules, rearranged, names, self.framework.name, self.config)

    def _metadata(self) -> StateMetadata:
        metadata, steps = self.state.metadata, self.steps if self.state.metadata.ties else ()
        neutral = {step.sources[0]: step.targets[0] for step in steps if step.sources}
        tree_form = dict(metadata.tree_form)
        if self.framework.collections:
            tree_form.setdefault(self.framework.name, "variables" if self.collections.present else "params")
        return StateMetadata(
            layers=self.layers,
            ties={neutral[k]: neutral[v] for k, v in metadata.ties.items() if k in neutral and v in neutral},
            collections=self.unusual_collections,
            boxes=self.boxes,
            separators=self._separators(),
            empty=metadata.empty,
            tree_form=tree_form,
            extra=metadata.extra,
            providers=metadata.providers,
            source_names=self._names_in_source(),
        )

    def _names_in_source(self) -> dict[Key, Key]:
        """Return neutral key -> key in the file or object, where a train state's weights have other names."""
        first, keys = self.state.metadata.source_names, self.source_keys
        return {key: first.get(source, source) for key, source in keys.items()} if first else keys

    def _separators(self) -> dict[str, str]:
        """Return what joins the names of frameworks that have trees."""
        metadata, here = self.state.metadata, self.framework.name
        separators = {name: text for name, text in metadata.separators.items() if name not in ("", here)}
        if self.framework.collections and metadata.separator(here) != ".":
            separators[here] = metadata.separator(here)
        return separators

    def _add_layer(self, group: Group, detection: Detection, renamed: Mapping[Key, tuple[Rule, ...]]) -> None:
        self.new_paths.setdefault(group.origin, group.path)
        moves, info = self._reading(group, detection)
        path, is_ruled = group.path, bool(renamed) or detection.rule is not None
        for key, (roles, ops, kind, evidence, usual) in zip(group.keys.values(), moves, strict=True):
            label, collection = "", self._collection(key) if self._has_collections else ""
            if is_ruled:
                kind_rule = detection.rule if evidence == "rule" else None
                label = labels((*([kind_rule] if kind_rule is not None else ()), *renamed.get(key, ())))
                named = renamed[key][-1].targets[0].collection if key in renamed else ""
                # A module has leaves in several collections, and a path in the default one is the module's.
                if named and named not in self.default_collections:
                    collection = named
            targets = (path + roles[0],) if len(roles) == 1 else tuple([path + role for role in roles])
            self._add(quick_step((key,), targets, ops, kind, evidence, None, label), collection, usual)
        if renamed and any(self._is_new_name(group, name, renamed) for name in info.unclaimed):
            info = replace(info, doubted=True)
        self.layers[group.path] = info

    def _reading(self, group: Group, detection: Detection) -> tuple[tuple[_LeafMove, ...], LayerInfo]:
        """Return how the leaves of a group are converted, and its record.

        Groups of which nothing else is known have it in common.
        """
        if group.module is not None or group.info is not None or self.state.metadata.auxiliary_tensors:
            return self._read(group, detection)
        signature = (id(detection), id(group.shapes))
        known = self._readings.get(signature)
        if known is None:
            known = self._readings[signature] = (detection, self._read(group, detection))
        return known[1]

    def _read(self, group: Group, detection: Detection) -> tuple[tuple[_LeafMove, ...], LayerInfo]:
        detection = _without_collision(group, detection)
        transform = detection.transform
        layer_leaves = transform.by_name() if transform is not None else {}
        moves: list[_LeafMove] = []
        roles: list[str] = []
        parameters: dict[str, str] = {}
        for name in group.keys:
            leaf = layer_leaves.get(name)
            if leaf is not None and transform is not None:
                leaf_roles, ops = self._leaf_ops(group, name, leaf, transform, detection)
                roles += leaf_roles
                usual = self.collections.of(transform.kind, leaf_roles[0])
                kind, evidence = transform.kind, detection.evidence
            else:
                undecided = bool(detection.candidates) and name in detection.leaves
                kind = "undecided" if undecided else PARAMETER
                evidence = detection.evidence
                if not undecided:
                    evidence = parameters[name] = parameter_evidence(group, name, detection, self._own_names)
                leaf_roles, ops = [name], ()
                usual = self.collections.default
            targets = tuple(leaf_path((), role) for role in leaf_roles)
            moves.append(_LeafMove(targets, ops, kind, evidence, usual))
        info = layer_info(self.framework.name, group, detection, tuple(roles), parameters, self._way_back)
        return tuple(moves), info

    def _is_new_name(self, group: Group, name: str, renamed: Mapping[Key, tuple[Rule, ...]]) -> bool:
        """Return whether a rule gave a leaf its name, which then is not evidence of its axes."""
        key = group.keys[name]
        return key in renamed and leaf_path(group.path, name)[-1] != self.collections.strip(key)[-1]

    def _leaf_ops(
        self, group: Group, name: str, leaf: Leaf, transform: LayerTransform, detection: Detection
    ) -> tuple[list[str], tuple[Op, ...]]:
        """Return the roles of a leaf, those that were added into them and stored, and the ops to them."""
        spec = group.specs[name]
        signature = (id(leaf), spec.shape, tuple(detection.axis_splits.items()))
        parts = self._part_ops.get(signature)
        if parts is None:
            split = transform.split_axes(detection.axis_splits)
            parts = part_ops(leaf, self.kinds[transform.kind], spec.shape, split)
            self._part_ops[signature] = parts
        roles, chains = [*leaf.roles], [ops for ops, _ in parts]
        for part, added_role in enumerate(leaf.added_leaves):
            part_spec = TensorSpec(parts[part][1], spec.dtype)
            summands = self._stored_summands(group.origin, (leaf.roles[part], added_role), part_spec)
            if summands:
                chains[part] = (*chains[part], SplitSum(2, summands))
                roles.insert(roles.index(leaf.roles[part]) + 1, added_role)
        cut = cut_of(leaf, spec.shape)
        ops = simplify_chain((cut, Parallel(tuple(chains)))) if cut is not None else chains[0]
        return roles, ops

    def _stored_summands(
        self, path: Key, roles: tuple[str, ...], spec: TensorSpec
    ) -> tuple[AuxiliaryTensor, ...]:
        """Return the parts of a sum that the metadata stores; nothing if one is missing or does not fit."""
        stored = self.state.metadata.auxiliary_tensors
        parts = [stored.get(leaf_path(path, role)) for role in roles]
        fitting = [p for p in parts if p is not None and (p.shape, p.dtype) == (spec.shape, spec.dtype.name)]
        return tuple(fitting) if len(fitting) == len(roles) else ()

    def _add_rearranged(self, key: Key, name: Key, rule: Rule) -> None:
        """Copy a tensor that a rule rearranges, unchanged."""
        step = Step((key,), (name,), (), PARAMETER, "rule", rule=rule.label)
        collection = self._collection(key) or self.state.metadata.collections.get(key, "")
        self._add(step, collection, self.collections.default)
        self.layers.setdefault(module_path(name), LayerInfo(PARAMETER, "rule", ()))

    def _collection(self, key: Key) -> str:
        """Return the collection that a tensor is in; empty if it is unknown."""
        return key[0] if self.collections.present else self._recorded_collections.get(key, "")

    def _add(self, step: Step, collection: str, usual: str) -> None:
        (source,) = step.sources
        box = None
        if self._has_boxes:
            box = source[-1] if source in self.collections.boxed else self.state.metadata.boxes.get(source)
        for target in step.targets:
            if target in self.source_keys:
                raise KeyConflict(
                    f"the keys {join_key(self.source_keys[target])!r} and {join_key(source)!r} have one "
                    "name in "
                    f"neutral form: {join_key(target)!r}.",
                    key=source,
                    hint="Rename one of them by a rule, rules=... (--rules FILE).",
                )
            self.source_keys[target] = source
            if collection and collection != usual:
                self.unusual_collections[target] = collection
            if box:
                self.boxes[target] = box
        self.steps.append(step)

    def _restore(self, key: Key, spec: TensorSpec) -> None:
        """Give a layer an auxiliary tensor back, which the source's layout cannot hold."""
        renames = applied_renames(self.rules, key)
        name = renames[-1][1] if renames else key
        if name == key:
            name = (*self.new_paths.get(module_path(key), key[:-1]), key[-1])
        if name in self.source_keys:
            return
        path, role = module_path(name), name[-1]
        if name == key and not self._has_layer(path):
            return
        info = self.layers.get(path)
        kind = self.kinds.get(info.kind or "") if info is not None else None
        kind_name = PARAMETER
        if info is not None and kind is not None and role in kind.auxiliary_tensors:
            self.layers[path] = replace(info, leaves=(*info.leaves, role))
            kind_name = kind.name
        self.steps.append(Step((), (name,), (Fill(0, spec),), kind_name, "metadata", auxiliary=key))

    def _has_layer(self, path: Key) -> bool:
        """Return whether the layer of an auxiliary tensor is there; others were taken out of the state."""
        return any(path[:end] in self.layers for end in range(len(path), max(len(path) - 3, 0), -1))


def _without_collision(group: Group, detection: Detection) -> Detection:
    """Return a detection; undecided where a role takes the name of a parameter that is not the layer's."""
    if detection.transform is None:
        return detection
    leaves = detection.transform.by_name()
    roles = {role for name in detection.leaves for role in leaves[name].roles}
    if any(name in roles for name in group.keys if name not in detection.leaves):
        return Detection("undecided", candidates=(detection.transform,), leaves=detection.leaves)
    return detection

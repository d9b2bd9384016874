"""A framework's state -> neutral: decide what evidence decides, and carry the rest undecided.

This direction never refuses and never guesses unasked: what stays undecided keeps the source's names and
axes, with its candidates in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bridge_core.axes import Binding, Shape
from bridge_core.errors import KeyConflict, UsageError
from bridge_core.layers import LayerKind, LayerTransform, Leaf, cut_of, part_shape, to_neutral_ops
from bridge_core.ops import Fill, Op, Parallel, SplitSum, simplify_chain
from bridge_core.plan import Dropped, Plan, PlanProblems, Step
from bridge_core.plugins import Registry
from bridge_core.resolve.evidence import PARAMETER, Reader, Reading
from bridge_core.resolve.grouping import Group, collection_of_role, group_state, has_heads
from bridge_core.resolve.rule_names import rule_names
from bridge_core.rules import Rule
from bridge_core.state import AuxiliaryTensor, FlatState, Key, LayerInfo, StateMetadata, TensorSpec, join_key

__all__ = ["plan_to_neutral"]


def plan_to_neutral(
    state: FlatState,
    registry: Registry,
    *,
    rules: Iterable[Rule] = (),
    accept_guesses: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan from a framework's state, or from a neutral one, to the neutral form.

    What a rule moves goes as it is, under its own name: the rule needs the target to do the rest.

    Args:
        state: The source; its layout names the framework, its metadata may carry module types.
        registry: Where kinds and transforms are found.
        rules: The rules as they are read here; patterns see keys without a collection head. Of a neutral
            state, those that tell whose names they hold have named its keys already.
        accept_guesses: Whether names may settle what no evidence does.
        config: The checkpoint's config, if one is known.

    Raises:
        UsageError: The layout is unknown.
        RuleError: Two rules claim one key, or a rule does not fit.
        KeyConflict: Two leaves would get one neutral key.
    """
    if state.layout is None:
        raise UsageError(
            "nothing tells whose names these are.",
            hint=f"Give the layout: {', '.join([*registry.frameworks, 'neutral'])}.",
        )
    if state.layout == "neutral":
        own = [rule for rule in rules if rule.layouts is None and rule.action in ("rename", "drop")]
        return _identity(state, own, config)
    return _ToNeutral(state, registry, tuple(rules), accept_guesses, config).plan()


def _identity(state: FlatState, rules: list[Rule], config: Mapping[str, Any] | None) -> Plan:
    ruled = rule_names({key: key for key in state}, state.specs(), rules, config)
    steps = []
    for key in state:
        if key in ruled.dropped:
            continue
        path, leaf = _owner(key, state.metadata.layers)
        info = state.metadata.layers.get(path)
        kind = info.kind or "undecided" if info and leaf in info.leaves else PARAMETER
        evidence = info.evidence if info else "name"
        renaming = ruled.renamed[key].label if key in ruled.renamed else ""
        steps.append(Step((key,), (ruled.names.get(key, key),), (), kind, evidence, rule=renaming))
    metadata = state.metadata
    if ruled.names or ruled.dropped:
        kept = {step.sources[0] for step in steps}
        metadata = state.select(lambda key: key in kept).metadata
    if ruled.names:
        metadata = _renamed_metadata(metadata, ruled.names)
    dropped = tuple(Dropped(key, reason) for key, reason in ruled.dropped.items())
    return Plan(
        "neutral",
        "neutral",
        state.specs(),
        tuple(steps),
        dropped,
        metadata=metadata,
        problems=PlanProblems(unmatched_rules=ruled.idle),
    )


def _owner(key: Key, layers: Mapping[Key, LayerInfo]) -> tuple[Key, str]:
    """Return the layer that a neutral key belongs to, and its leaf there."""
    for width in (2, 1):
        info = layers.get(key[:-width]) if len(key) >= width else None
        if info is not None and ".".join(key[-width:]) in info.leaves:
            return key[:-width], ".".join(key[-width:])
    return key[:-1], key[-1]


def _renamed_metadata(metadata: StateMetadata, names: Mapping[Key, Key]) -> StateMetadata:
    """Give layers the paths that their leaves have now; one whose leaves part is known no more."""
    layers: dict[Key, LayerInfo] = {}
    for path, info in metadata.layers.items():
        homes = set()
        for leaf in info.leaves:
            parts = tuple(leaf.split("."))
            new = names.get((*path, *parts), (*path, *parts))
            homes.add(new[: -len(parts)] if new[-len(parts) :] == parts else None)
        home = homes.pop() if len(homes) == 1 else None if homes else path
        if home is not None:
            layers[home] = info
    moved = metadata.map_keys(lambda key: names.get(key, key))
    return moved.with_(layers=layers, empty=metadata.empty)


class _ToNeutral:
    def __init__(
        self,
        state: FlatState,
        registry: Registry,
        rules: tuple[Rule, ...],
        accept_guesses: bool,
        config: Mapping[str, Any] | None,
    ) -> None:
        self.state = state
        self.specs = state.specs()
        self.kinds = registry.kinds
        self.framework = registry.framework(state.layout or "")
        self.transforms = registry.transforms_of.get(self.framework.name, ())
        self.rules = rules
        self.config = config
        self.accept_guesses = accept_guesses
        self.reader = Reader(self.transforms, self.framework.name, rules)
        self._leaf_moves: dict[object, tuple[tuple[tuple[Op, ...], Shape], ...]] = {}
        self.heads = has_heads(state, self.framework)
        self.steps: list[Step] = []
        self.dropped: list[Dropped] = []
        self.layers: dict[Key, LayerInfo] = {}
        self.collections: dict[Key, str] = {}
        self.neutral: dict[Key, Key] = {}
        self.taken: dict[Key, Key] = {}

    def plan(self) -> Plan:
        origins = {key: key[1:] if self.heads else key for key in self.state}
        ruled = rule_names(origins, self.specs, self.rules, self.config)
        self.dropped = [Dropped(key, reason) for key, reason in ruled.dropped.items()]
        aside = {*ruled.dropped, *ruled.claimed}
        rest = self.state.select(lambda key: key not in aside) if aside else self.state
        for group in group_state(rest, self.framework, self.transforms, ruled.names).values():
            self._group(group, ruled.renamed)
        for key, rule in ruled.claimed.items():
            self._claim(key, origins[key], rule)
        for key, residual in self.state.metadata.auxiliary_tensors.items():
            self._restore(key, TensorSpec(residual.shape, residual.array().dtype))
        metadata = self.state.metadata
        tree_form = dict(metadata.tree_form)
        if self.framework.collections:
            tree_form.setdefault(self.framework.name, "variables" if self.heads else "params")
        return Plan(
            self.framework.name,
            "neutral",
            self.specs,
            tuple(self.steps),
            tuple(self.dropped),
            problems=PlanProblems(
                unmatched_rules=(*ruled.idle, *(rule.full_label for rule in self.reader.idle()))
            ),
            metadata=StateMetadata(
                layers=self.layers,
                ties={
                    self.neutral[k]: self.neutral[v]
                    for k, v in metadata.ties.items()
                    if k in self.neutral and v in self.neutral
                },
                collections=self.collections,
                empty=metadata.empty,
                tree_form=tree_form,
                extra=metadata.extra,
            ),
        )

    def _restore(self, key: Key, spec: TensorSpec) -> None:
        """Give a layer back what the source has no place for and kept."""
        name = self._renamed(key) or key
        if name in self.taken:
            return
        path, role = name[:-1], name[-1]
        info = self.layers.get(path)
        kind = self.kinds.get(info.kind or "") if info is not None else None
        known = PARAMETER
        if info is not None and kind is not None and role in kind.auxiliary_tensors:
            self.layers[path] = replace(info, leaves=(*info.leaves, role))
            known = kind.name
        self.steps.append(Step((), (name,), (Fill(0, spec),), known, "metadata", auxiliary=key))

    def _renamed(self, name: Key) -> Key | None:
        for rule in self.rules:
            captures = rule.source.match(name) if rule.rename_to is not None else None
            if captures is not None and rule.rename_to is not None:
                return rule.rename_to.fill(captures)
        return None

    def _claim(self, key: Key, name: Key, rule: Rule) -> None:
        """Let a tensor that a rule moves go as it is."""
        head = key[0] if self.heads else self.state.metadata.collections.get(key, "")
        step = Step((key,), (name,), (), PARAMETER, "rule", rule=rule.label)
        self._add(step, head, collection_of_role(self.framework, None, name[-1]))
        self.layers.setdefault(name[:-1], LayerInfo(PARAMETER, "rule", ()))

    def _group(self, group: Group, renamed: Mapping[Key, Rule]) -> None:
        reading = self.reader.read(group)
        if reading.candidates and self.accept_guesses:
            reading = self.reader.guessed(group, reading)
        if reading.transform is not None and self._collides(group, reading):
            reading = Reading("undecided", candidates=(reading.transform,), claimed=reading.claimed)
        leaves = reading.transform.by_name() if reading.transform is not None else {}
        roles: list[str] = []
        for name, key in group.keys.items():
            leaf = leaves.get(name)
            if leaf is not None and reading.transform is not None:
                step = self._leaf_step(group, name, leaf, reading.transform, reading)
                made = [".".join(target[len(group.path) :]) for target in step.targets]
                roles += made
                usual = collection_of_role(self.framework, reading.transform.kind, made[0])
            else:
                undecided = bool(reading.candidates) and name in reading.claimed
                kind = "undecided" if undecided else PARAMETER
                evidence = reading.evidence if undecided or reading.transform is None else "name"
                step = Step((key,), ((*group.path, *name.split(".")),), (), kind, evidence)
                usual = collection_of_role(self.framework, None, name)
            fired = (reading.rule if step.evidence == "rule" else None, renamed.get(key))
            rules = ", ".join(rule.label for rule in fired if rule is not None)
            self._add(replace(step, rule=rules) if rules else step, group.collections[name], usual)
        self.layers[group.path] = self._info(group, reading, tuple(roles))

    def _leaf_step(
        self, group: Group, name: str, leaf: Leaf, transform: LayerTransform, reading: Reading
    ) -> Step:
        """Return the step from a leaf to its roles, and to those that were added into them and kept."""
        spec = group.specs[name]
        like = (id(leaf), spec.shape, tuple(reading.axis_splits.items()))
        known = self._leaf_moves.get(like)
        if known is None:
            split = transform.split_axes(reading.axis_splits)
            known = _parts(leaf, self.kinds[transform.kind], spec.shape, split)
            self._leaf_moves[like] = known
        roles, chains = [*leaf.roles], [ops for ops, _ in known]
        for part, absorbed in enumerate(leaf.added_leaves):
            made = TensorSpec(known[part][1], spec.dtype)
            kept = self._kept(group.origin, (leaf.roles[part], absorbed), made)
            if kept:
                chains[part] = (*chains[part], SplitSum(2, kept))
                roles.insert(roles.index(leaf.roles[part]) + 1, absorbed)
        cut = cut_of(leaf, spec.shape)
        ops = simplify_chain((cut, Parallel(tuple(chains)))) if cut is not None else chains[0]
        targets = tuple((*group.path, *role.split(".")) for role in roles)
        return Step((group.keys[name],), targets, ops, transform.kind, reading.evidence)

    def _kept(self, path: Key, roles: tuple[str, ...], spec: TensorSpec) -> tuple[AuxiliaryTensor, ...]:
        """Return what was kept of the parts of a sum; nothing if it does not fit."""
        auxiliary_tensors = self.state.metadata.auxiliary_tensors
        kept = [auxiliary_tensors.get((*path, *role.split("."))) for role in roles]
        fit = [r for r in kept if r is not None and (r.shape, r.dtype) == (spec.shape, spec.dtype.name)]
        return tuple(fit) if len(fit) == len(roles) else ()

    def _collides(self, group: Group, reading: Reading) -> bool:
        """Tell whether a role would take the name of a parameter beside the layer."""
        if reading.transform is None:
            return False
        leaves = reading.transform.by_name()
        roles = {role for name in reading.claimed for role in leaves[name].roles}
        return any(name in roles for name in group.keys if name not in reading.claimed)

    def _add(self, step: Step, collection: str, usual: str) -> None:
        (source,) = step.sources
        for target in step.targets:
            if target in self.taken:
                raise KeyConflict(
                    f"{join_key(self.taken[target])!r} and {join_key(source)!r} are both "
                    f"{join_key(target)!r} in neutral form.",
                    key=source,
                    hint="Rename one of them by a rule.",
                )
            self.taken[target] = source
            if collection and collection != usual:
                self.collections[target] = collection
        self.neutral[source] = step.targets[0]
        self.steps.append(step)

    def _info(self, group: Group, reading: Reading, roles: tuple[str, ...]) -> LayerInfo:
        transforms = dict(group.info.transforms) if group.info is not None else {}
        if reading.transform is not None:
            transforms[self.framework.name] = reading.transform.name
            return LayerInfo(
                reading.transform.kind,
                reading.evidence,
                roles,
                transforms=transforms,
                axis_splits=reading.axis_splits,
            )
        if reading.candidates:
            names = tuple(c.name if c is not None else PARAMETER for c in reading.candidates)
            return LayerInfo(None, reading.evidence, reading.claimed, names, transforms)
        return LayerInfo(PARAMETER, reading.evidence, tuple(group.keys), transforms=transforms)


def _parts(
    leaf: Leaf, kind: LayerKind, shape: Shape, axis_splits: Binding
) -> tuple[tuple[tuple[Op, ...], Shape], ...]:
    """Return, for each role of a leaf, the ops from its part to the neutral leaf, and the neutral shape."""
    split = tuple(sorted(axis_splits.items()))
    found = []
    for part, role in enumerate(leaf.roles):
        moved = to_neutral_ops(leaf, kind.leaves[role], part_shape(leaf, shape), part=part, axis_splits=split)
        if moved is None:
            raise AssertionError(f"{leaf} was found to fit {shape}")
        found.append(moved)
    return tuple(found)

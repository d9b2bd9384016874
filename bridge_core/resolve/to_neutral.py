"""A framework's state -> neutral: decide what evidence decides, and carry the rest undecided.

This direction never refuses and never guesses unasked: what stays undecided keeps the source's names and
axes, with its candidates in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bridge_core.errors import KeyConflict, UsageError
from bridge_core.keys import Key, join_key
from bridge_core.metadata import LayerInfo, StateMetadata
from bridge_core.ops import Fill
from bridge_core.plan import Dropped, Plan, Step
from bridge_core.plugins import Registry
from bridge_core.resolve.axes import to_neutral_ops
from bridge_core.resolve.groups import Group, collection_of_role, group_state, has_heads
from bridge_core.resolve.reading import PARAMETER, Reader, Reading, guess
from bridge_core.rules import Rule
from bridge_core.state import FlatState
from bridge_core.tensors import TensorSpec

__all__ = ["plan_to_neutral"]


def plan_to_neutral(
    state: FlatState,
    registry: Registry,
    *,
    rules: Iterable[Rule] = (),
    accept_guesses: bool = False,
) -> Plan:
    """Return the plan from a framework's state to the neutral form.

    Args:
        state: The source; its layout names the framework, its metadata may carry module types.
        registry: Where kinds and transforms are found.
        rules: Renames, kinds and drops; patterns see keys without a collection head.
        accept_guesses: Whether names may settle what no evidence does.

    Raises:
        UsageError: The layout is unknown.
        RuleError: A rule matches nothing or does not fit.
        KeyConflict: Two leaves would get one neutral key.
    """
    if state.layout is None:
        raise UsageError(
            "nothing tells whose names these are.",
            hint=f"Give the layout: {', '.join([*registry.frameworks, 'neutral'])}.",
        )
    if state.layout == "neutral":
        return _identity(state)
    return _ToNeutral(state, registry, tuple(rules), accept_guesses).plan()


def _identity(state: FlatState) -> Plan:
    steps = []
    for key in state:
        info = state.metadata.layers.get(key[:-1])
        kind = info.kind or "undecided" if info and key[-1] in info.leaves else PARAMETER
        steps.append(Step((key,), (key,), (), kind, info.evidence if info else "name"))
    return Plan("neutral", "neutral", state.specs(), tuple(steps), metadata=state.metadata)


class _ToNeutral:
    def __init__(
        self, state: FlatState, registry: Registry, rules: tuple[Rule, ...], accept_guesses: bool
    ) -> None:
        self.state = state
        self.specs = state.specs()
        self.kinds = registry.kinds
        self.framework = registry.framework(state.layout or "")
        self.transforms = registry.transforms_of.get(self.framework.name, ())
        self.rules = rules
        self.accept_guesses = accept_guesses
        self.reader = Reader(self.transforms, self.framework.name, rules)
        self.heads = has_heads(state, self.framework)
        self.steps: list[Step] = []
        self.dropped: list[Dropped] = []
        self.layers: dict[Key, LayerInfo] = {}
        self.collections: dict[Key, str] = {}
        self.neutral: dict[Key, Key] = {}
        self.taken: dict[Key, Key] = {}

    def plan(self) -> Plan:
        names = self._names()
        for group in group_state(self.state, self.framework, self.transforms, names).values():
            self._group(group)
        for key, residual in self.state.metadata.residuals.items():
            self._restore(key, TensorSpec(residual.shape, residual.array().dtype))
        metadata = self.state.metadata
        forms = dict(metadata.forms)
        if self.framework.collections:
            forms.setdefault(self.framework.name, "variables" if self.heads else "params")
        return Plan(
            self.framework.name,
            "neutral",
            self.specs,
            tuple(self.steps),
            tuple(self.dropped),
            metadata=StateMetadata(
                layers=self.layers,
                ties={
                    self.neutral[k]: self.neutral[v]
                    for k, v in metadata.ties.items()
                    if k in self.neutral and v in self.neutral
                },
                collections=self.collections,
                empty=metadata.empty,
                forms=forms,
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
        if info is not None and kind is not None and role in kind.residuals:
            self.layers[path] = replace(info, leaves=(*info.leaves, role))
            known = kind.name
        self.steps.append(Step((), (name,), (Fill(0, spec),), known, "metadata", residual=key))

    def _renamed(self, name: Key) -> Key | None:
        for rule in self.rules:
            captures = rule.source.match(name) if rule.rename_to is not None else None
            if captures is not None and rule.rename_to is not None:
                return rule.rename_to.fill(captures)
        return None

    def _names(self) -> Mapping[Key, Key]:
        """Apply the rules that rename and drop, to keys without their heads."""
        names: dict[Key, Key] = {}
        for key in self.state:
            name = key[1:] if self.heads else key
            for rule in self.rules:
                captures = rule.source.match(name) if rule.kind is None else None
                if captures is None:
                    continue
                if rule.rename_to is not None:
                    names[key] = rule.rename_to.fill(captures)
                else:
                    self.dropped.append(Dropped(key, f"rule: {rule.drop}"))
                break
        dropped = {d.key for d in self.dropped}
        if dropped:
            self.state = self.state.select(lambda key: key not in dropped)
        return names

    def _group(self, group: Group) -> None:
        reading = self.reader.read(group)
        if reading.candidates and self.accept_guesses:
            chosen = guess(group.path, reading.candidates)
            claimed = tuple(n for n in reading.claimed if chosen and n in chosen.by_name())
            reading = Reading("guess", chosen, claimed=claimed)
        transform = reading.transform
        if transform is not None and self._collides(group, reading):
            reading = Reading("undecided", candidates=(transform,), claimed=reading.claimed)
            transform = None
        leaves = transform.by_name() if transform is not None else {}
        roles: list[str] = []
        for name, key in group.keys.items():
            spec = group.specs[name]
            leaf = leaves.get(name)
            if leaf is not None and transform is not None:
                moved = to_neutral_ops(leaf, self.kinds[transform.kind].leaves[leaf.role], spec.shape)
                if moved is None:
                    raise AssertionError(f"{transform.name} was found to fit {spec}")
                roles.append(leaf.role)
                step = Step((key,), ((*group.path, leaf.role),), moved[0], transform.kind, reading.evidence)
                usual = collection_of_role(self.framework, transform.kind, leaf.role)
            else:
                undecided = bool(reading.candidates) and name in reading.claimed
                kind = "undecided" if undecided else PARAMETER
                evidence = reading.evidence if undecided or transform is None else "name"
                step = Step((key,), ((*group.path, *name.split(".")),), (), kind, evidence)
                usual = collection_of_role(self.framework, None, name)
            self._add(step, group.collections[name], usual)
        self.layers[group.path] = self._info(group, reading, tuple(roles))

    def _collides(self, group: Group, reading: Reading) -> bool:
        """Tell whether a role would take the name of a parameter beside the layer."""
        if reading.transform is None:
            return False
        roles = {reading.transform.by_name()[name].role for name in reading.claimed}
        return any(name in roles for name in group.keys if name not in reading.claimed)

    def _add(self, step: Step, collection: str, usual: str) -> None:
        (source,), (target,) = step.sources, step.targets
        if target in self.taken:
            raise KeyConflict(
                f"{join_key(self.taken[target])!r} and {join_key(source)!r} are both "
                f"{join_key(target)!r} in neutral form.",
                key=source,
                hint="Rename one of them by a rule.",
            )
        self.taken[target] = source
        self.neutral[source] = target
        self.steps.append(step)
        if collection and collection != usual:
            self.collections[target] = collection

    def _info(self, group: Group, reading: Reading, roles: tuple[str, ...]) -> LayerInfo:
        forms = dict(group.info.forms) if group.info is not None else {}
        if reading.transform is not None:
            forms[self.framework.name] = reading.transform.name
            return LayerInfo(reading.transform.kind, reading.evidence, roles, forms=forms)
        if reading.candidates:
            names = tuple(c.name if c is not None else PARAMETER for c in reading.candidates)
            return LayerInfo(None, reading.evidence, reading.claimed, names, forms)
        return LayerInfo(PARAMETER, reading.evidence, tuple(group.keys), forms=forms)

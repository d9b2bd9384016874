"""Neutral -> a framework's state: what rules order, then every layer, with a template or without one.

The two ways out differ in where the target's names and shapes come from. Both collect all problems in the
plan; `Plan.check` raises them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.errors import UsageError
from bridge_core.ops import Fill, Op, Pad, Parallel, Unpad
from bridge_core.plan import Dropped, Plan, Step, shown_names
from bridge_core.plugins import Registry, names_of
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.neutral_layers import neutral_layers
from bridge_core.resolve.request import Ordered, Request
from bridge_core.resolve.rule_names import check_constant, rule_holds, unmatched_labels
from bridge_core.resolve.without_template import WithoutTemplate
from bridge_core.resolve.written_names import Spellings, names_of_tensor, own_name
from bridge_core.rules import Permissions
from bridge_core.state import (
    FlatState,
    Key,
    LayerInfo,
    StateMetadata,
    TensorSpec,
    module_path,
)

if TYPE_CHECKING:
    from bridge_core.resolve.recorded_rules import TowardsFramework
    from bridge_core.resolve.rule_instance import BoundRule
    from bridge_core.rules import KeyIndex, Pattern, Rule

__all__ = ["plan_from_neutral"]

_NOTHING_ALLOWED = Permissions()

_MOST_LOSSES = 4
"""How many losses of one rule the notes name."""

_TEMPLATE = 'Pass like="model.safetensors" (--like).'


def plan_from_neutral(
    state: FlatState,
    registry: Registry,
    to: str,
    *,
    like: FlatState | None = None,
    rules: Iterable[Rule] = (),
    permissions: Permissions = _NOTHING_ALLOWED,
    origin: Mapping[Key, Key] | None = None,
    config: Mapping[str, Any] | None = None,
    spellings: Spellings = own_name,
) -> Plan:
    """Return the plan from a neutral state to a framework's, problems included.

    Args:
        state: The neutral state; a plain one without metadata is read by its names and shapes.
        registry: Where kinds, transforms and adapters are found.
        to: Name of the framework.
        like: The template: the result must have its names and shapes.
        rules: Rules that rearrange tensors or fill targets, and that fix the kinds of what is undecided, as
            they are read towards this framework. Those that the state records are done without being given.
        permissions: What may be guessed and left out.
        origin: Neutral key -> source key of the conversion that this is the second step of; messages show
            it, and patterns also see it. The state's own `source_names` are shown and seen in the same way.
        config: The checkpoint's config, if one is known.
        spellings: Gives the names that patterns see of a source key in ``origin``.

    Raises:
        UsageError: The framework is unknown, or ``to`` is neutral.
        RuleError: A rule does not fit the tensors it takes or makes.
        KeyConflict: Two keys of a neutral state name one leaf of a layer.
    """
    if to == "neutral":
        raise UsageError(
            'to="neutral": the state is neutral already.',
            hint=f"Pass a framework: {', '.join(registry.frameworks)}.",
        )
    framework = registry.framework(to)
    rules = tuple(rules)
    ways = index = None
    if rules or state.metadata.rules:
        from bridge_core.resolve.recorded_rules import towards

        ways = towards(state, rules, registry, to, like, config)
        rules = ways.rules
    targets = None
    if like is not None:
        collections = names_of(like, framework)
        if ways is not None:
            from bridge_core.rules import KeyIndex

            targets = {name: like.spec(key) for key, name in collections.names(like).items()}
            index = KeyIndex(targets)
    origin, source_names = origin or {}, state.metadata.source_names
    shown = shown_names(origin, source_names)
    inexact = permissions.allow_inexact
    bound_rules, unmatched = _bind_rules(state, ways, targets, index, config, inexact, shown)
    refused, left_out = dict[Key, str](), []
    for key, why in ways.refused.items() if ways is not None else ():
        if permissions.may_leave_out(*names_of_tensor(key, origin, state.metadata, spellings)):
            left_out.append(Dropped(key, "allowed as unexpected"))
        else:
            refused[key] = why
    taken = {*(key for bound in bound_rules for key in bound.sources), *(ways.refused if ways else ())}
    renamed = ways.renamed if ways is not None else ()
    fills, absent, unused = _fills(rules, targets, index, config, bound_rules, renamed)
    rest = state.select(lambda key: key not in taken) if taken else state
    request = Request(
        rest,
        registry,
        framework,
        neutral_layers(rest, registry, rules),
        permissions,
        origin,
        rules,
        Ordered(state, bound_rules, fills, absent),
        spellings,
    )
    if like is not None:
        from bridge_core.resolve.with_template import WithTemplate

        plan = WithTemplate(request).resolve(like, collections)
    else:
        plan = WithoutTemplate(request).resolve()
    return replace(
        plan,
        source_names=source_names,
        dropped=(*plan.dropped, *left_out),
        notes=(*plan.notes, *_notes(bound_rules, shown)),
        metadata=plan.metadata.with_(rules=(), layers=_without_waiting(plan, state.metadata)),
        problems=replace(
            plan.problems,
            unsupported={**plan.problems.unsupported, **refused},
            unmatched_rules=(*unmatched, *unused),
        ),
    )


def _bind_rules(
    state: FlatState,
    ways: TowardsFramework | None,
    targets: Mapping[Key, TensorSpec] | None,
    index: KeyIndex | None,
    config: Mapping[str, Any] | None,
    allow_inexact: bool,
    shown: Callable[[Key], str],
) -> tuple[tuple[BoundRule, ...], tuple[str, ...]]:
    """Return the instances of rules that rearrange tensors, and the rules that matched nothing.

    A recorded rule takes the tensors that wait for it. The others take what waits for no rule, and only plain
    parameters where the metadata shows that rules were applied before they were recorded.
    """
    if ways is None or not ways.rules:
        return (), ()
    from bridge_core.resolve.rule_binding import bind_rule, check_disjoint
    from bridge_core.rules import KeyIndex

    metadata = state.metadata
    waiting = {key for keys in ways.sources.values() for key in keys} | set(ways.refused)
    ruled_before = not metadata.rules and any(
        info.evidence == "rule" and info.kind == PARAMETER for info in metadata.layers.values()
    )
    specs = state.specs()
    free = _parameters(state) if ruled_before else specs
    free = {key: spec for key, spec in free.items() if key not in waiting} if waiting else free
    of_free, of_state = KeyIndex(free), KeyIndex(state)
    bound_rules: list[BoundRule] = []
    seen = []
    for number, rule in enumerate(ways.rules):
        if rule.action != "rearrange" or not rule_holds(rule, config):
            continue
        pending = ways.sources.get(number)
        indexed = (of_free if pending is None else KeyIndex(pending), index)
        allowing = _allowing_inexact(rule) if allow_inexact else rule
        instances = bind_rule(allowing, specs, targets, config, shown, indexed)
        bound_rules += instances
        may_match_nothing = rule.optional or rule.when.is_undecided or _waits(rule, of_state)
        seen.append((rule, bool(instances) or pending is not None or may_match_nothing))
    check_disjoint(bound_rules, shown)
    return tuple(bound_rules), unmatched_labels(seen)


def _allowing_inexact(rule: Rule) -> Rule:
    before, after = (tuple(call.allowing_inexact() for call in calls) for calls in (rule.before, rule.after))
    return rule if (before, after) == (rule.before, rule.after) else replace(rule, before=before, after=after)


def _without_waiting(plan: Plan, neutral: StateMetadata) -> Mapping[Key, LayerInfo]:
    """Return the records of layers for the target's metadata.

    A tensor that waited for a rule, and went back to where it came from, may not have been a parameter.
    """
    layers = plan.metadata.layers
    waited = {
        module_path(key)
        for record in neutral.rules or ()
        if record.layouts[0] == plan.target_layout
        for key in record.pending
    }
    if not waited:
        return layers
    return {path: i for path, i in layers.items() if path not in waited or i.kind != PARAMETER}


def _notes(bound_rules: Iterable[BoundRule], shown: Callable[[Key], str]) -> tuple[str, ...]:
    """Return notes about calls that change no length, and about ops that lose something."""
    notes: dict[str, None] = {}
    losses: dict[str, dict[str, None]] = {}
    for bound in bound_rules:
        label, ops = bound.rule.label, list(_flat(bound.ops))
        calls = [
            call for call in (*bound.rule.before, *bound.rule.after) if call.is_sized and not call.difference
        ]
        if calls and not any(isinstance(op, Pad | Unpad) and op.source != op.target for op in ops):
            name = shown(bound.sources[0])
            notes[f"rule {label}: '{calls[0]}' does not change the length of {name}"] = None
        for op in ops:
            if op.loss:
                losses.setdefault(label, {})[f"rule {label}: {op} {op.loss}"] = None
    for texts in losses.values():
        for number, text in enumerate(texts):
            more = f" (and {len(texts) - _MOST_LOSSES} more of this rule)"
            if number < _MOST_LOSSES:
                last = number == _MOST_LOSSES - 1 and len(texts) > _MOST_LOSSES
                notes[text + (more if last else "")] = None
    return tuple(notes)


def _flat(ops: Iterable[Op]) -> Iterator[Op]:
    for op in ops:
        if isinstance(op, Parallel):
            for chain in op.chains:
                yield from _flat(chain)
        else:
            yield op


def _parameters(state: FlatState) -> dict[Key, TensorSpec]:
    """Return the tensors that are not leaves of a decided layer."""
    specs = {}
    for key, spec in state.specs().items():
        path, leaf = state.metadata.owner(key)
        info = state.metadata.layers.get(path)
        if info is None or leaf not in info.leaves or info.kind == PARAMETER:
            specs[key] = spec
    return specs


def _waits(rule: Rule, keys: KeyIndex) -> bool:
    """Return whether a rule's patterns match tensors that its conditions do not let it take."""
    return bool(rule.when) and any(
        rule.bind(pattern, key) is not None
        for key in keys.candidates(*rule.sources)
        for pattern in rule.sources
    )


def _fills(
    rules: Iterable[Rule],
    targets: Mapping[Key, TensorSpec] | None,
    index: KeyIndex | None,
    config: Mapping[str, Any] | None,
    bound_rules: Iterable[BoundRule],
    renamed: Iterable[Pattern],
) -> tuple[dict[Key, Step], tuple[Key, ...], tuple[str, ...]]:
    """Return the targets that rules fill with constants, those they leave out, and the unmatched rules.

    A fallback fills only what no other rule makes; ``renamed`` are patterns of the names that these give.
    """
    fills: dict[Key, Step] = {}
    absent: list[Key] = []
    seen = []
    owners = {key: bound.rule for bound in bound_rules for key in bound.targets}
    for rule in sorted(rules, key=lambda rule: rule.fallback):
        if rule.action != "fill" or not rule_holds(rule, config):
            continue
        if targets is None or index is None:
            if rule.value is not None:
                error = rule.error("the target's shapes are not known, and a constant needs them.")
                error.hint = _TEMPLATE
                raise error
            continue
        candidates = index.candidates(*rule.targets)
        matching = [key for key in candidates if any(rule.bind(p, key) is not None for p in rule.targets)]
        seen.append((rule, bool(matching) or rule.optional or rule.when.is_undecided))
        for key in matching:
            other = owners.get(key, rule)
            if rule.fallback and not (other.fallback and all(p.match(key) is None for p in renamed)):
                continue
            owners[key] = other
            if other is not rule:
                from bridge_core.resolve.rule_binding import rule_conflict

                raise rule_conflict(rule, other, "make", key)
            if rule.value is None:
                absent.append(key)
            else:
                check_constant(rule, targets[key].dtype, key)
                fill = Fill(rule.value, targets[key])
                fills[key] = Step((), (key,), (fill,), PARAMETER, "rule", rule=rule.label)
    return fills, tuple(absent), unmatched_labels(seen)

"""Rules that move tensors, bound to real keys: which sources become which targets, by which ops."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import PlanError, RuleError
from bridge_core.keys import Key, join_key
from bridge_core.notation import ELLIPSIS, Rearrangement, rearrange
from bridge_core.ops import Cast, Lanes, Offset, Op, Pad, Unpad, chain_specs, simplify_chain
from bridge_core.rules import Call, Rule, resolve_sizes
from bridge_core.tensors import TensorSpec

__all__ = ["Claim", "bind_rule", "check_claims", "held_keys"]

Captures = tuple[tuple[str, str], ...]
Place = tuple[int, ...]
"""Where a tensor stands along the list axes of its pattern."""


@dataclass(frozen=True)
class Claim:
    """One use of a rule.

    Args:
        rule: The rule.
        sources: Keys it takes.
        targets: Keys it makes, without a collection head.
        ops: From the sources to the targets.
    """

    rule: Rule
    sources: tuple[Key, ...]
    targets: tuple[Key, ...]
    ops: tuple[Op, ...]


def bind_rule(
    rule: Rule,
    sources: Mapping[Key, TensorSpec],
    targets: Mapping[Key, TensorSpec] | None,
    config: Mapping[str, Any] | None,
) -> tuple[Claim, ...]:
    """Return every use of a rule that moves tensors.

    Args:
        rule: The rule, read from source to target.
        sources: The keys it may take, without a collection head.
        targets: The target's keys, likewise; None if they are not known.
        config: The checkpoint's config, if one is known.

    Raises:
        RuleError: Keys of a use are missing, or its tensors do not fit.
    """
    claims = []
    sizes: dict[str, int] | None = None
    for captures, found in _uses(rule, sources).items():
        if sizes is None:
            sizes = resolve_sizes(rule, config)
        claim = _Use(rule, dict(captures), sources, targets, sizes, config).claim(found)
        if claim is not None:
            claims.append(claim)
    return tuple(claims)


def held_keys(
    rule: Rule, sources: Mapping[Key, TensorSpec], config: Mapping[str, Any] | None
) -> frozenset[Key]:
    """Return the keys that a rule takes by its patterns and its conditions on shapes.

    Where the conditions are about a target whose shape is not known yet, they are taken to hold.

    Args:
        rule: The rule, read from source to target.
        sources: The keys it may take, without a collection head.
        config: The checkpoint's config, if one is known.
    """
    held: set[Key] = set()
    for captures, found in _uses(rule, sources).items():
        if _Use(rule, dict(captures), sources, None, {}, config).may_hold(found):
            held.update(key for group in found.values() for key in group.values())
    return frozenset(held)


def check_claims(claims: Iterable[Claim]) -> None:
    """Check that no two claims take one key or make one key.

    Raises:
        RuleError: Two do; it names both rules.
    """
    for what, side in (("take", "sources"), ("make", "targets")):
        owner: dict[Key, Claim] = {}
        for claim in claims:
            for key in getattr(claim, side):
                other = owner.setdefault(key, claim)
                if other is not claim:
                    raise claim.rule.error(f"it and {_named(other.rule)} both {what} this tensor.", key)


def _named(rule: Rule) -> str:
    return f"{rule} ({rule.origin})" if rule.origin else str(rule)


def _uses(rule: Rule, keys: Iterable[Key]) -> dict[Captures, dict[int, dict[Place, Key]]]:
    """Return, for each set of shared captures, each source pattern's keys by their places in its list."""
    lists = rule.lists.left
    uses: dict[Captures, dict[int, dict[Place, Key]]] = {}
    for key in keys:
        for number, pattern in enumerate(rule.sources):
            captures = rule.bind(pattern, key)
            if captures is None:
                continue
            place = tuple(int(captures[name]) for name in lists[number])
            shared = tuple(sorted((n, v) for n, v in captures.items() if n not in lists[number]))
            uses.setdefault(shared, {}).setdefault(number, {})[place] = key
    return uses


class _Use:
    """One use of a rule: the tensors that belong together by their captures."""

    def __init__(
        self,
        rule: Rule,
        captures: Mapping[str, str],
        sources: Mapping[Key, TensorSpec],
        targets: Mapping[Key, TensorSpec] | None,
        sizes: Mapping[str, int],
        config: Mapping[str, Any] | None,
    ) -> None:
        self.rule = rule
        self.captures = captures
        self.sources = sources
        self.targets = targets
        self.sizes = dict(sizes)
        self.config = config

    def claim(self, found: Mapping[int, Mapping[Place, Key]]) -> Claim | None:
        """Return what becomes of the keys; None where the rule's conditions do not hold."""
        if not self._holds(found):
            return None
        keys = self._listed(found)
        specs = tuple(self.sources[key] for group in keys for key in group)
        rule = self.rule
        try:
            claim, first = self._made(keys, specs)
        except PlanError as err:
            raise rule.error(err.message, keys[0][0]) from err
        except RuleError as err:
            if err.path is not None or err.message.startswith("rule "):
                raise
            raise rule.error(err.message, keys[0][0]) from err
        if rule.when.of_target and not rule.applies(first.shape, self.config):
            return None
        return claim

    def may_hold(self, found: Mapping[int, Mapping[Place, Key]]) -> bool:
        """Tell whether the rule's conditions hold, or may hold once the target is known."""
        if not self.rule.when.of_target or not self._holds(found):
            return self._holds(found)
        try:
            self.sizes = resolve_sizes(self.rule, self.config)
            return self.claim(found) is not None
        except RuleError:  # what is wrong is told where the target is known
            return True

    def _holds(self, found: Mapping[int, Mapping[Place, Key]]) -> bool:
        """Tell whether the conditions hold, as far as the sources tell; what is missing is told later."""
        if self.rule.when.of_target:
            return self._ranks_hold(found)
        if 0 not in found:
            return True
        first = found[0][min(found[0])]
        return self.rule.applies(self.sources[first].shape, self.config)

    def _ranks_hold(self, found: Mapping[int, Mapping[Place, Key]]) -> bool:
        """Tell whether the sources can become targets of the rank that is asked for."""
        ranks = {number: len(self.sources[key].shape) for number, g in found.items() for key in g.values()}
        equation = self.rule.equation
        if equation is None:
            return self.rule.when.rank in (None, *ranks.values())
        spare = 0
        for number, rank in ranks.items():
            axes = equation.left[number].axes
            more = rank - len(axes)
            if ELLIPSIS in axes:
                spare = more + 1
            if spare < 0 or (more and ELLIPSIS not in axes):
                return False
        made = equation.right[0].axes
        rank = len(made) + (spare - 1 if ELLIPSIS in made else 0)
        return self.rule.when.rank in (None, rank)

    def _listed(self, found: Mapping[int, Mapping[Place, Key]]) -> tuple[tuple[Key, ...], ...]:
        """Return the keys of each source pattern, row by row; note the lengths of the lists.

        Raises:
            RuleError: Some are missing.
        """
        lists = self.rule.lists.left
        for number, names in enumerate(lists):
            for axis, name in enumerate(names):
                seen = max((place[axis] + 1 for place in found.get(number, ())), default=0)
                self.sizes[name] = max(self.sizes.get(name, 0), seen)
        listed = []
        missing = []
        for number, names in enumerate(lists):
            row = []
            for place in itertools.product(*(range(self.sizes[name]) for name in names)):
                key = found.get(number, {}).get(place)
                if key is None:
                    missing.append(self._key(number, names, place))
                else:
                    row.append(key)
            listed.append(tuple(row))
        if missing:
            shown = ", ".join(join_key(key) for key in missing[:8])
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            one = next(key for group in found.values() for key in group.values())
            raise self.rule.error(
                f"it takes this tensor together with others, and {shown}{more} is not there.", one
            )
        return tuple(listed)

    def _key(self, number: int, names: tuple[str, ...], place: Place) -> Key:
        own = {name: str(value) for name, value in zip(names, place, strict=True)}
        return self.rule.build(self.rule.sources[number], {**self.captures, **own})

    def _made(
        self, keys: tuple[tuple[Key, ...], ...], specs: tuple[TensorSpec, ...]
    ) -> tuple[Claim, TensorSpec]:
        rule = self.rule
        wanted = self._wanted()
        owners = [number for number, group in enumerate(keys) for _ in group]
        before = self._calls(rule.before, owners, specs, wanted, 0)
        called = tuple(chain_specs((spec,), chain)[0] for spec, chain in zip(specs, before, strict=True))
        sizes = {name: n for name, n in self.sizes.items() if rule.equation and name in self._axes()}
        if rule.equation is not None:
            resized = any(call.name in ("pad", "unpad") for call in rule.after)
            known = None if wanted is None or resized else wanted.values()
            shapes = None if known is None else [spec.shape if spec is not None else None for spec in known]
            moved = rearrange(rule.equation, called, sizes=sizes, lists=rule.lists, wanted=shapes)
        else:
            moved = Rearrangement((), called, {})
        targets = tuple(self._targets(moved.sizes))
        numbers = [number for number, _ in targets]
        made = {key: wanted.get(key) if wanted else None for _, key in targets}
        after = self._calls(rule.after, numbers, moved.specs, made, 1)
        ops = simplify_chain((Lanes(before), *moved.ops, Lanes(after)))
        sources = tuple(key for group in keys for key in group)
        claim = Claim(rule, sources, tuple(key for _, key in targets), ops)
        result = chain_specs(specs, ops)
        self._check(claim, result)
        return claim, result[0]

    def _axes(self) -> frozenset[str]:
        equation = self.rule.equation
        named = equation.axes if equation is not None else frozenset()
        return named.union(*self.rule.lists.left, *self.rule.lists.right)

    def _check(self, claim: Claim, made: tuple[TensorSpec, ...]) -> None:
        """Check the results against the target's own shapes.

        Raises:
            RuleError: A target is not there, or of another shape.
        """
        if self.targets is None:
            return
        for key, spec in zip(claim.targets, made, strict=True):
            known = self.targets.get(key)
            if known is None:
                raise self.rule.error(f"it makes {join_key(key)!r}, which the target does not have.")
            if known.shape != spec.shape:
                raise self.rule.error(f"it makes {spec} where the target has {known}.", key)

    def _wanted(self) -> dict[Key, TensorSpec | None] | None:
        """Return the target's tensors of this use in their order, and note the lengths of its lists."""
        if self.targets is None:
            return None
        found: dict[int, dict[Place, Key]] = {}
        rule = self.rule
        for key in self.targets:
            for number, pattern in enumerate(rule.targets):
                captures = rule.bind(pattern, key)
                names = rule.lists.right[number]
                if captures is None:
                    continue
                shared = {n: v for n, v in captures.items() if n not in names}
                if all(self.captures.get(n) == v for n, v in shared.items()):
                    found.setdefault(number, {})[tuple(int(captures[n]) for n in names)] = key
        for number, names in enumerate(rule.lists.right):
            for axis, name in enumerate(names):
                seen = max((place[axis] + 1 for place in found.get(number, ())), default=0)
                if seen:
                    self.sizes[name] = max(self.sizes.get(name, 0), seen)
        try:
            keys = [key for _, key in self._targets(self.sizes)]
        except KeyError:
            return None
        return {key: self.targets.get(key) for key in keys}

    def _targets(self, sizes: Mapping[str, int]) -> Iterator[tuple[int, Key]]:
        """Yield the targets, each with the number of its pattern."""
        for number, pattern in enumerate(self.rule.targets):
            names = self.rule.lists.right[number]
            for place in itertools.product(*(range(sizes[name]) for name in names)):
                own = {name: str(value) for name, value in zip(names, place, strict=True)}
                yield number, self.rule.build(pattern, {**self.captures, **own})

    def _calls(
        self,
        calls: tuple[Call, ...],
        numbers: list[int],
        specs: tuple[TensorSpec, ...],
        wanted: Mapping[Key, TensorSpec | None] | None,
        side: int,
    ) -> tuple[tuple[Op, ...], ...]:
        """Return the ops that calls stand for, tensor by tensor."""
        goals = list(wanted.values()) if wanted is not None and side == 1 else [None] * len(specs)
        chains = []
        for number, spec, goal in zip(numbers, specs, goals, strict=True):
            chain: list[Op] = []
            for call in calls:
                op = self._op(call, number, spec, goal, wanted, of_target=side == 1)
                if op is not None:
                    chain.append(op)
                    (spec,) = op.spec((spec,))
            chains.append(tuple(chain))
        return tuple(chains)

    def _op(
        self,
        call: Call,
        number: int,
        spec: TensorSpec,
        goal: TensorSpec | None,
        wanted: Mapping[Key, TensorSpec | None] | None,
        *,
        of_target: bool,
    ) -> Op | None:
        if call.name == "offset":
            value, rounding = call.args
            return Offset(float(str(value)), bool(rounding))
        if call.name == "cast":
            source, target = map(str, call.args)
            return Cast(source, target)
        axis = self.rule.axis_of(call, number, of_target=of_target)
        if axis is None:
            return None
        rank = len(spec.shape)
        if not -rank <= axis < rank:
            raise self.rule.error(f"'{call}': {spec} has no axis {axis}.")
        axis %= rank
        before, after = (self.sizes.get(n, n) if isinstance(n, str) else n for n in call.args[1:])
        if before is not None and before != spec.shape[axis]:
            found = spec.shape[axis]
            raise self.rule.error(f"'{call}': the axis has {found} elements; {before} were expected.")
        size = after if after is not None else self._size_of(call, axis, goal, wanted)
        kind = Pad if call.name == "pad" else Unpad
        return kind(axis, spec.shape[axis], int(str(size)))

    def _size_of(
        self,
        call: Call,
        axis: int,
        goal: TensorSpec | None,
        wanted: Mapping[Key, TensorSpec | None] | None,
    ) -> int:
        """Return the size that a call leaves to the target's own shape."""
        if goal is not None and len(goal.shape) > axis:
            return goal.shape[axis]
        equation, name = self.rule.equation, call.args[0]
        for number, key in self._targets(self.sizes) if wanted is not None else ():
            spec = wanted.get(key) if wanted is not None else None
            place = equation.right[number].position(str(name)) if equation is not None else axis
            if spec is not None and place is not None and -len(spec.shape) <= place < len(spec.shape):
                return spec.shape[place]
        raise self.rule.error(
            f"'{call}': nothing tells the size. Write it, as in '{call.name}({name}, 50304)', or give the "
            "target's shapes (--like FILE, or like=)."
        )

"""One instance of a rule that rearranges tensors: the tensors with the same captures, and their ops."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bridge_core.axes import ELLIPSIS, Call, Rearrangement, SizeLookup, op_of_call, rearrange
from bridge_core.errors import BridgeError, PlanError, RuleError
from bridge_core.messages import nearest
from bridge_core.ops import Op, Parallel, chain_specs, simplify_chain
from bridge_core.resolve.key_matching import Captures, MatchedKeys, Place, counted, list_lengths
from bridge_core.rules import Rule, resolve_sizes
from bridge_core.state import Key, TensorSpec, join_key

__all__ = ["BoundRule", "RuleInstance"]

Keys = tuple[tuple[Key, ...], ...]
"""The keys of each source pattern."""
_MOST_SHOWN = 8
_LARGEST = 1 << 60
"""Bytes of one tensor; positions in files are numbers of 63 bits."""


@dataclass(frozen=True)
class BoundRule:
    """A rule on real keys.

    Args:
        rule: The rule.
        sources: The keys that it takes.
        targets: The keys that it makes, without a collection.
        ops: From the sources to the targets.
    """

    rule: Rule
    sources: tuple[Key, ...]
    targets: tuple[Key, ...]
    ops: tuple[Op, ...]


class RuleInstance:
    """One instance of a rule: the tensors with the same captures.

    Args:
        rule: The rule, read from source to target.
        captures: The captures that all its patterns share.
        sources: The source's keys, with their specs.
        targets: The target's keys, likewise; None if they are not known.
        in_target: The target's keys that match this instance.
        config: The checkpoint's config, if one is known.
        shown: Gives the name of a source key in messages.
    """

    def __init__(
        self,
        rule: Rule,
        captures: Captures,
        sources: Mapping[Key, TensorSpec],
        targets: Mapping[Key, TensorSpec] | None,
        in_target: MatchedKeys,
        config: Mapping[str, Any] | None,
        shown: Callable[[Key], str] = join_key,
    ) -> None:
        self.rule = rule
        self._shown = shown
        self.captures = dict(captures)
        self.sources = sources
        self.targets = targets
        self.in_target = in_target
        self.sizes: dict[str, int] = {}
        self.config = config

    def bind(self, matched: MatchedKeys) -> BoundRule | None:
        """Return the rule on these keys; None if its conditions do not hold.

        Raises:
            RuleError: Keys are missing, or the tensors do not fit.
        """
        if not self._holds(matched):
            return None
        left_open: dict[str, RuleError] = {}
        self.sizes = resolve_sizes(self.rule, self.config, left_open)
        keys = self._listed(matched)
        specs = tuple(self.sources[key] for group in keys for key in group)
        rule = self.rule
        asks_target = rule.when.of_target and rule.when.needs_shape
        if asks_target and not self._asked_by_template():
            return None
        if asks_target and not self._makes_what_is_asked(keys, specs):
            return None
        try:
            bound, made = self._made(keys, specs, self._target_specs())
            if asks_target and not rule.applies(made[0].shape, self.config):
                return None
            self._check(bound, made)
        except (PlanError, RuleError) as err:
            unknown = next((left_open[name] for name in left_open if f"axis {name!r}" in err.message), None)
            named = self._named(unknown or err, self._shown_key(keys[0][0]))
            if named is err:  # an error is not its own cause
                raise
            raise named from err
        return bound

    def _asked_by_template(self) -> bool:
        """Return whether the conditions hold for the template's tensor; True where it has none."""
        first = self.in_target.get(0, {})
        if not first or self.targets is None:
            return True
        return self.rule.applies(self.targets[first[min(first)]].shape, self.config)

    def _makes_what_is_asked(self, keys: Keys, specs: tuple[TensorSpec, ...]) -> bool:
        """Return whether the conditions on the target hold; True where only the target would show it."""
        try:
            _, made = self._made(keys, specs, None)
        except (PlanError, RuleError):
            return True
        return self.rule.applies(made[0].shape, self.config)

    def _shown_key(self, key: Key) -> Key | str:
        name = self._shown(key)
        return key if name == join_key(key) else name

    def _named(self, error: BridgeError, key: Key | str) -> BridgeError:
        """Return the error with the rule's name and the tensor's, if it does not have them."""
        if isinstance(error, RuleError) and (error.path is not None or error.message.startswith("rule ")):
            error.key = error.key or key
            return error
        named = self.rule.error(error.message, key)
        named.hint = error.hint
        return named

    def may_hold(self, matched: MatchedKeys) -> bool:
        """Return whether the rule's conditions hold, or may hold once the target is known."""
        if not self.rule.when.of_target or not self._holds(matched):
            return self._holds(matched)
        try:
            return self.bind(matched) is not None
        except RuleError:  # reported where the target is known
            return True

    def _holds(self, matched: MatchedKeys) -> bool:
        """Return whether the conditions hold by the sources; what is missing is reported later."""
        if self.rule.when.of_target:
            return self._ranks_hold(matched)
        if 0 not in matched:
            return True
        first = matched[0][min(matched[0])]
        return self.rule.applies(self.sources[first].shape, self.config)

    def _ranks_hold(self, matched: MatchedKeys) -> bool:
        """Return whether the sources can become targets of the rank that is asked for."""
        ranks = {number: len(self.sources[key].shape) for number, g in matched.items() for key in g.values()}
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

    def _listed(self, matched: MatchedKeys) -> Keys:
        """Return the keys of each source pattern, row by row; note the lengths of the list axes."""
        list_axes = self.rule.list_axes.left
        for name, seen in list_lengths(list_axes, matched).items():
            self.sizes[name] = max(self.sizes.get(name, 0), seen)
        missing: list[str] = []
        count = 0
        for number, names in enumerate(list_axes):
            row = matched.get(number, {})
            holes_count = math.prod(self.sizes.get(name, 0) for name in names) - len(row)
            if holes_count > 0:  # a name may hold any number, so nothing is done for each of them
                count += holes_count
                holes = (place for place in self._places(names) if place not in row)
                shown = itertools.islice(holes, _MOST_SHOWN - min(len(missing), _MOST_SHOWN))
                missing += [join_key(self._key(number, names, place)) for place in shown]
        if count:
            more = f" and {count - len(missing)} more" if count > len(missing) else ""
            one = next(key for group in matched.values() for key in group.values())
            what = "source tensor is" if count == 1 else "source tensors are"
            text = f"{count} {what} missing that the rule takes with this one: {', '.join(missing)}{more}."
            hint = self._alike(missing[0])
            if missing[0] in map(str, self.rule.sources):
                hint = f"Write '{missing[0]}?' in the rule if this tensor may be absent."
            elif len(list_axes) == 1 == len(list_axes[0]) and count == min(matched[0])[0]:
                (name,) = list_axes[0]
                hint = f'Write where = "{name} = n + {count}", and n for {name} in the equation.'
            raise self.rule.error(text, self._shown_key(one), hint=hint)
        return tuple(
            tuple(matched[number][place] for place in self._places(names))
            for number, names in enumerate(list_axes)
        )

    def _alike(self, missing: str) -> str | None:
        """Return a hint about the most similar source that the rule does not match, if one is similar."""
        parts, patterns = missing.split("."), self.rule.sources
        names = (tuple(self._shown(key).split(".")) for key in self.sources)
        alike = [
            join_key(name)
            for name in names
            if len(name) == len(parts)
            and sum(map(operator.ne, name, parts)) == 1
            and all(pattern.match(name) is None for pattern in patterns)
        ]
        hint = nearest(missing, alike) if alike else ""
        return hint if hint.startswith("Did you mean") else None

    def _places(self, names: tuple[str, ...]) -> Iterator[Place]:
        return counted([self.sizes[name] for name in names])

    def _key(self, number: int, names: tuple[str, ...], place: Place) -> Key:
        own = {name: str(value) for name, value in zip(names, place, strict=True)}
        return self.rule.build(self.rule.sources[number], {**self.captures, **own})

    def _made(
        self,
        keys: Keys,
        specs: tuple[TensorSpec, ...],
        target_specs: Mapping[Key, TensorSpec | None] | None,
    ) -> tuple[BoundRule, tuple[TensorSpec, ...]]:
        rule = self.rule
        owners = [number for number, group in enumerate(keys) for _ in group]
        # Offsets and scales change no spec, and may use what the equation finds out about sizes.
        shaping = tuple(call for call in rule.before if call.name not in ("offset", "scale"))
        before = self._calls(shaping, owners, specs, target_specs, 0)
        called = tuple(chain_specs((spec,), chain)[0] for spec, chain in zip(specs, before, strict=True))
        sizes = {name: n for name, n in self.sizes.items() if rule.equation and name in self._axes()}
        if rule.equation is not None:
            resized = any(call.is_sized for call in rule.after)
            known = None if target_specs is None or resized else target_specs.values()
            shapes = None if known is None else [spec.shape if spec is not None else None for spec in known]
            moved = rearrange(
                rule.equation, called, sizes=sizes, list_axes=rule.list_axes, wanted=shapes, stated=rule.sizes
            )
        else:
            moved = Rearrangement((), called, {})
        for name, number in rule.numbered.stacked_sizes.items():
            if moved.sizes.get(name, number) < number:
                raise RuleError(f"the axis {name!r} has size {moved.sizes[name]}, but {number} are counted.")
        targets = tuple(self._targets(moved.sizes))
        twice = next((k for k, n in Counter(key for _, key in targets).items() if n > 1), None)
        if twice is not None:
            raise rule.error("the rule makes this tensor twice.", twice)
        numbers = [number for number, _ in targets]
        made = {key: target_specs.get(key) if target_specs else None for _, key in targets}
        if shaping != rule.before:
            before = self._calls(rule.before, owners, specs, target_specs, 0, moved.sizes)
        after = self._calls(rule.after, numbers, moved.specs, made, 1, moved.sizes)
        ops = simplify_chain((Parallel(before), *moved.ops, Parallel(after)))
        sources = tuple(key for group in keys for key in group)
        bound = BoundRule(rule, sources, tuple(key for _, key in targets), ops)
        return bound, chain_specs(specs, ops)

    def _axes(self) -> frozenset[str]:
        equation = self.rule.equation
        named = equation.axes if equation is not None else frozenset()
        return named.union(*self.rule.list_axes.left, *self.rule.list_axes.right)

    def _check(self, bound: BoundRule, made: tuple[TensorSpec, ...]) -> None:
        """Check the results against the target's own shapes."""
        for key, spec in zip(bound.targets, made, strict=True):
            if spec.nbytes > _LARGEST:
                raise self.rule.error(
                    f"the rule makes {join_key(key)!r} of {spec.nbytes} bytes; no file holds it."
                )
        if self.targets is None:
            return
        for key, spec in zip(bound.targets, made, strict=True):
            known = self.targets.get(key)
            if known is None:
                raise self._no_target(key)
            if known.shape != spec.shape:
                raise self.rule.error(f"the target has {known}; the rule makes {spec}.", key)

    def _target_specs(self) -> dict[Key, TensorSpec | None] | None:
        """Return the target's tensors of this instance in order, and note the lengths of its list axes."""
        if self.targets is None:
            return None
        list_axes = self.rule.list_axes.right
        lengths = list_lengths(list_axes, self.in_target)
        for name, seen in lengths.items():
            if seen:
                self.sizes[name] = max(self.sizes.get(name, 0), seen)
        if any(name not in self.sizes for name in lengths):
            return None
        for number, names in enumerate(list_axes):
            row = self.in_target.get(number, {})
            if row and math.prod(self.sizes[name] for name in names) > len(row):
                hole = next(place for place in self._places(names) if place not in row)
                raise self._no_target(self._target(number, hole))
        return {key: self.targets.get(key) for _, key in self._targets(self.sizes)}

    def _no_target(self, key: Key) -> RuleError:
        error = self.rule.error(f"the rule makes {join_key(key)!r}, which the target does not have.")
        error.hint = nearest(join_key(key), map(join_key, self.targets or ()))
        return error

    def _targets(self, sizes: Mapping[str, int]) -> Iterator[tuple[int, Key]]:
        """Yield the targets, each with the number of its pattern."""
        for number, names in enumerate(self.rule.list_axes.right):
            for place in counted([sizes[name] for name in names]):
                yield number, self._target(number, place)

    def _target(self, number: int, place: Place) -> Key:
        names = self.rule.list_axes.right[number]
        own = {name: str(value) for name, value in zip(names, place, strict=True)}
        return self.rule.build(self.rule.targets[number], {**self.captures, **own})

    def _calls(
        self,
        calls: tuple[Call, ...],
        numbers: list[int],
        specs: tuple[TensorSpec, ...],
        target_specs: Mapping[Key, TensorSpec | None] | None,
        side: int,
        found: Mapping[str, int] = MappingProxyType({}),
    ) -> tuple[tuple[Op, ...], ...]:
        """Return the ops of calls, tensor by tensor; ``found`` are the sizes of axes that shapes show."""
        lookup = SizeLookup(self.rule.sizes, self.config, {**self.sizes, **found})
        goals = list(target_specs.values()) if target_specs is not None and side == 1 else [None] * len(specs)
        chains = []
        for number, spec, goal in zip(numbers, specs, goals, strict=True):
            chain: list[Op] = []
            for call in calls:
                axis = self.rule.axis_of(call, number, of_target=side == 1) if call.is_sized else None
                size_of = functools.partial(self._size_of, call, goal=goal, target_specs=target_specs)
                op = op_of_call(call, spec, axis, lookup, size_of)
                if op is not None:
                    chain.append(op)
                    (spec,) = op.spec((spec,))
            chains.append(tuple(chain))
        return tuple(chains)

    def _size_of(
        self,
        call: Call,
        axis: int,
        goal: TensorSpec | None,
        target_specs: Mapping[Key, TensorSpec | None] | None,
    ) -> int:
        """Return the size that a call leaves to the target's own shape."""
        if goal is not None and len(goal.shape) > axis:
            return goal.shape[axis]
        equation, name = self.rule.equation, call.args[0]
        listed = self.sizes.keys() >= set(itertools.chain(*self.rule.list_axes.right))
        for number, key in self._targets(self.sizes) if target_specs is not None and listed else ():
            spec = target_specs.get(key) if target_specs is not None else None
            place = equation.right[number].position(str(name)) if equation is not None else axis
            if spec is not None and place is not None and -len(spec.shape) <= place < len(spec.shape):
                return spec.shape[place]
        raise RuleError(
            f"'{call}': the size is not known.",
            hint=f"Write the size in the rule, as in '{call.name}({name}, 50304)', or pass "
            'like="model.safetensors" (--like).',
        )

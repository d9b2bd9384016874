"""Settles choices by content: the same checkpoint in both forms, or two of one training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bridge_core.messages import count, listed
from bridge_core.plugins import Registry, given_registry
from bridge_core.proof.matching.matching import Choice, Matching, Option, PatternPair
from bridge_core.proof.matching.option_values import made_by
from bridge_core.proof.matching.settled_choices import settle
from bridge_core.proof.matching.value_likeness import (
    Likeness,
    fingerprint,
    likeness_of,
    pooled,
    sample,
)
from bridge_core.state import Array, FlatState, Key, equal_values

__all__ = ["settle_by_values"]

_KEYS = 16
"""Uses of one rule that are compared; a model may have more layers."""

_FEW = 64
"""Options of a choice that are compared without looking for equal values first."""

_MOST = 4096
"""Options of a choice of which samples are compared."""

_SIGNAL = 10.0
"""A likeness is one if it is this many times what unrelated values have by chance."""

_LEAST = 0.1
"""The least strength, a correlation of about 0.1, of a pair that is settled."""

_MARGIN = 0.5
"""The next best may have this share of a settled pair's strength."""


def settle_by_values(
    matching: Matching, source: FlatState, target: FlatState, *, registry: Registry | None = None
) -> Matching:
    """Return a matching with the choices settled that the values of both sides decide.

    A pair is taken where its values are equal under its equation, or more alike than those of any other pair
    of either side by a wide margin. Constants show nothing. Samples are read, and entire tensors in blocks
    where samples are equal.

    Args:
        matching: What headers showed.
        source: The source that was matched, with values.
        target: The target that was matched, with values.
        registry: The plugins; None for all that are installed.

    Raises:
        BadInputError: A file is damaged.
    """
    registry = given_registry(registry)
    values = _Values(source, target, registry)
    while True:
        verdicts = [(choice, *values.settled(choice)) for choice in matching.choices]
        reasons = sorted({reason for _, _, reason in verdicts if reason})
        for reason in reasons:
            chosen = {
                number: options
                for number, choice in enumerate(matching.choices)
                for known, options, why in verdicts
                if known is choice and why == reason
            }
            matching = settle(
                matching,
                chosen,
                source=source,
                target=target,
                reason=f"by values: {reason}",
                registry=registry,
            )
        if not reasons:
            return replace(matching, problems=(*matching.problems, *values.contradictions(matching)))


@dataclass(frozen=True, eq=False)
class _Values:
    """The values of both sides."""

    source: FlatState
    target: FlatState
    registry: Registry
    samples: dict[Key, Array] = field(default_factory=dict)
    made: dict[object, tuple[Array, ...] | None] = field(default_factory=dict)
    prints: dict[tuple[str, Key], tuple[int, str, int]] = field(default_factory=dict)

    def settled(self, choice: Choice) -> tuple[tuple[Option, ...], str]:
        """Return the options of a choice that values decide, and how; none if they decide nothing."""
        options = list(choice.options)
        if len(options) > _FEW:
            equal = [option for option in options if self._same_prints(option)]
            options = equal or options
        if len(options) > _MOST:
            return (), ""
        known = [(option, self.likeness(option)) for option in options]
        taken: list[tuple[Option, Likeness]] = []
        for option, own in known:
            rivals = [
                other
                for rival, other in known
                if rival is not option and (rival.source == option.source or rival.target == option.target)
            ]
            if _is_settled(own, rivals):
                taken.append((option, own))
        if not taken:
            return self._only_one(choice, known)
        chosen = tuple(option for option, _ in taken)
        if all(own.equal and self._is_equal(option) for option, own in taken):
            return chosen, "equal in every bit"
        least = min(own.correlation for _, own in taken)
        return chosen, f"correlation at least {math.floor(least * 1000) / 1000:.3f}"

    def _only_one(
        self, choice: Choice, known: Sequence[tuple[Option, Likeness]]
    ) -> tuple[tuple[Option, ...], str]:
        """Return the last option of a choice whose others are settled."""
        if len(choice.options) == len(choice.sources) == len(choice.targets) == 1:
            ((option, own),) = known
            if not own.contradicts and (not own.weight or own.strength > _SIGNAL * own.noise):
                return (option,), "the only one left"
        return (), ""

    def likeness(self, option: Option) -> Likeness:
        """Return how alike both sides of an option are, its open choices at their best."""
        parts = [self._of_pairs(option.pairs)] if option.pairs else []
        parts += [self._of_choice(choice) for choice in option.choices]
        return pooled(parts)

    def _of_choice(self, choice: Choice) -> Likeness:
        known = [(option, self.likeness(option)) for option in choice.options[:_MOST]]
        free = {option.source for option, _ in known}, {option.target for option, _ in known}
        best = []
        for option, own in sorted(known, key=lambda item: -item[1].strength):
            if option.source in free[0] and option.target in free[1]:
                free[0].discard(option.source)
                free[1].discard(option.target)
                best.append(own)
        return pooled(best)

    def _of_pairs(self, pairs: Iterable[PatternPair]) -> Likeness:
        parts = []
        for pair in map(_shortened, pairs):
            targets = [key for _, keys in pair.keys for key in keys]
            made = self._made_samples(pair)
            if made is None:
                return Likeness(equal=False)
            parts += [likeness_of(one, self._sample(key)) for one, key in zip(made, targets, strict=True)]
        return pooled(parts)

    def _made_samples(self, pair: PatternPair) -> tuple[Array, ...] | None:
        """Return samples of what a rule makes, for each key of its target; None if it does not fit.

        An equation makes the same for all targets of one shape.
        """
        targets = [key for _, keys in pair.keys for key in keys]
        specs = tuple(self.target.spec(key) for key in targets)
        identity = (
            tuple(keys for keys, _ in pair.keys),
            tuple(pair.sizes.items()),
            pair.equation,
            specs,
            pair.layer and pair.targets,
        )
        if identity not in self.made:
            made = made_by([pair], self.source, self.target, self.registry)
            fits = made is not None and all(key in made for key in targets)
            self.made[identity] = (
                tuple(sample(made.tensor(key)) for key in targets) if made is not None and fits else None
            )
        return self.made[identity]

    def _sample(self, key: Key) -> Array:
        if key not in self.samples:
            self.samples[key] = sample(self.target.tensor(key))
        return self.samples[key]

    def _is_equal(self, option: Option) -> bool:
        """Return whether every bit of the target is what an option makes of the source."""
        values = made_by(option.pairs, self.source, self.target, self.registry)
        return values is not None and all(
            values.spec(key) == self.target.spec(key)
            and equal_values(values.tensor(key), self.target.tensor(key))
            for key in values
        )

    def _same_prints(self, option: Option) -> bool:
        """Return whether both sides of an option hold the same values in some order."""
        for use in (use for pair in option.pairs for use in _shortened(pair).keys):
            sums = []
            for side, keys in zip(("source", "target"), use, strict=True):
                prints = [self._print(side, key) for key in keys]
                sums.append(
                    (sum(p[0] for p in prints), {p[1] for p in prints}, sum(p[2] for p in prints) % (1 << 64))
                )
            if sums[0] != sums[1]:
                return False
        return True

    def _print(self, side: str, key: Key) -> tuple[int, str, int]:
        if (side, key) not in self.prints:
            state = self.source if side == "source" else self.target
            self.prints[side, key] = fingerprint(state.tensor(key))
        return self.prints[side, key]

    def contradictions(self, matching: Matching) -> Iterator[str]:
        """Yield what is settled and not equal, where most of what is settled is equal in its samples."""
        unequal: list[str] = []
        checked = 0
        for pair in matching.pairs:
            own = self._of_pairs([pair])
            if own.weight or own.contradicts:
                checked += 1
                unequal += [] if own.equal else [f"{' + '.join(pair.sources)} -> {' + '.join(pair.targets)}"]
        if unequal and 2 * len(unequal) < checked:
            rules = count(len(unequal), "rule")
            yield f"by values: other rules make the target's values, and {rules} not: {listed(unequal)}"


def _is_settled(own: Likeness, rivals: Iterable[Likeness]) -> bool:
    """Return whether a pair is alike by far more than chance and than any rival."""
    if not own.weight or own.contradicts or own.strength < max(_LEAST, _SIGNAL * own.noise):
        return False
    return all(
        rival.strength <= _MARGIN * own.strength and not (own.equal and rival.equal and rival.weight)
        for rival in rivals
    )


def _shortened(pair: PatternPair) -> PatternPair:
    """Return a rule with some of its uses, the first and the last among them."""
    if len(pair.keys) <= _KEYS or any(" counts " in text for text in pair.where):
        return pair
    places = sorted({round(n * (len(pair.keys) - 1) / (_KEYS - 1)) for n in range(_KEYS)})
    return replace(pair, keys=tuple(pair.keys[place] for place in places))

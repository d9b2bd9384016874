"""Runs of both models in which all items of a choice have the same values, but for one.

With the same values for all items both models agree whichever assignment is right. Then one item of the
source is changed, and one of the target: of the right pair both outputs change equally.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bridge_core.errors import BridgeError, UnsupportedFeature
from bridge_core.messages import listed
from bridge_core.plugins import ModelRun, Precision, Registry
from bridge_core.proof.matching.alike_values import alike_values, changed_values
from bridge_core.proof.matching.matching import Choice, Matching, Option, PatternPair
from bridge_core.proof.matching.option_values import made_by
from bridge_core.proof.matching.rules_text import rules_text
from bridge_core.proof.running import (
    Outputs,
    Side,
    compared_outputs,
    converted_weights,
    measured_control,
    relative_error,
    source_values,
)
from bridge_core.rules import rules_of_text
from bridge_core.state import Array, ArrayTensor, FlatState, Key, Tensor

__all__ = ["AlikeRuns", "Verdict", "every_rule"]

_ROUNDING = 2.0
"""How many times the control outputs may differ: it is measured with other values than those of each run."""

_CLEAR = 30.0
"""A change, and a difference from every other option, is seen if it is this many times the limit."""

_SHARP = 1e-10
"""Relative error up to which runs in float64 are equal."""

_ALIKE = 1e-6
"""Relative error up to which all options make the same values before anything is changed."""


@dataclass(frozen=True)
class Verdict:
    """What runs show of a choice.

    Args:
        options: The options that they decide.
        error: The largest error of their outputs.
        why: Why they decide no more.
        is_faint: Whether something is too small to be seen in the models' own precision.
    """

    options: tuple[Option, ...] = ()
    error: float = 0.0
    why: str = ""
    is_faint: bool = False


def every_rule(option: Option) -> Iterator[PatternPair]:
    """Yield the rules of an option, and all of what is open in it."""
    yield from option.pairs
    for choice in option.choices:
        for inner in choice.options:
            yield from every_rule(inner)


def _assigned(choice: Choice) -> list[Option]:
    """Return one assignment of a choice, whichever: as many sources as possible, each target once."""
    taken: dict[str, Option] = {}

    def place(source: str, seen: set[str]) -> bool:
        for option in choice.options_of(source):
            if option.target in seen:
                continue
            seen.add(option.target)
            before = taken.get(option.target)
            if before is None or place(before.source, seen):
                taken[option.target] = option
                return True
        return False

    for source in choice.sources:
        place(source, set())
    return list(taken.values())


def one_way(option: Option) -> list[PatternPair]:
    """Return the rules of an option, with one assignment of what is open in it."""
    inner = (one for choice in option.choices for one in _assigned(choice))
    return [*option.pairs, *(pair for one in inner for pair in one_way(one))]


@dataclass(frozen=True, eq=False)
class AlikeRuns:
    """Both models with alike values in everything that is open.

    Args:
        source: The source's model.
        target: The target's model.
        values: The source's weights; those that may belong to one target are equal.
        others: Other values for them, of the same sizes, alike as well.
        made: The target's weights, which any assignment makes.
        registry: The plugins.
        seed: For random numbers that the models draw.
        control: What rounding may change in the outputs.
        precision: How the models compute.
        limit: The relative error up to which outputs are equal.
        known: Runs of the target by the weights that were changed.
        arrays: What rules make of an item that is changed, by all that it depends on.
    """

    source: Side
    target: Side
    values: FlatState
    others: FlatState
    made: FlatState
    registry: Registry
    seed: int
    control: float
    precision: Precision
    limit: float
    known: dict[object, ModelRun] = field(default_factory=dict, init=False)
    arrays: dict[object, dict[Key, Array] | None] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        matching: Matching,
        source: Side,
        target: Side,
        registry: Registry,
        seed: int,
    ) -> AlikeRuns | str:
        """Return the runs of both models, or why there are none.

        Args:
            matching: The rules so far, and the choices.
            source: The source's model.
            target: The target's model.
            registry: The plugins.
            seed: For random values.
        """
        rules = [pair for choice in matching.choices for o in choice.options for pair in every_rule(o)]
        values, others = (
            alike_values(source_values(source, registry, seed=number)[0], rules)
            for number in (seed, seed + 1)
        )
        pairs = [p for choice in matching.choices for option in _assigned(choice) for p in one_way(option)]
        complete = replace(matching, pairs=(*matching.pairs, *pairs), choices=())
        left = {"allow_missing": True, "allow_unexpected": True} if matching.open_leaves else {}
        try:
            converted = converted_weights(
                values,
                target,
                registry,
                seed=seed,
                rules=rules_of_text(rules_text(complete), "rules.toml"),
                recipe="none",
                **left,
            )
        except BridgeError as err:
            return f"nothing was run: {err.message}"
        sides = ((source, converted.source), (target, converted.target))
        control = _ROUNDING * sum(measured_control(side, weights, seed=seed).error for side, weights in sides)
        made = converted.target
        runs = cls(source, target, values, others, made, registry, seed, control, "native", control)
        outputs = runs.base_outputs
        if outputs.error > control:
            return (
                f"the outputs differ by {outputs.error:.1e} whichever way it is, and by rounding only by "
                f"{control:.1e}: something else differs between the models."
            )
        return runs

    def sharper(self) -> AlikeRuns | None:
        """Return the same in float64; None if that is not offered, or shows no more."""
        sharp = replace(self, precision="float64", limit=_SHARP)
        try:
            error = sharp.base_outputs.error
        except UnsupportedFeature:
            return None
        limit = max(_SHARP, 4 * error)
        return replace(self, precision="float64", limit=limit) if limit < 0.1 * self.control else None

    @functools.cached_property
    def base(self) -> tuple[ModelRun, ModelRun]:
        """What both models return before anything is changed."""
        return self._run(self.source, self.values), self._run(self.target, self.made)

    @functools.cached_property
    def base_outputs(self) -> Outputs:
        """The outputs of these, compared."""
        return compared_outputs(self.base[0].outputs, self.base[1].outputs, self.limit)

    def settled(self, choice: Choice) -> Verdict:
        """Return the options of a choice that outputs decide."""
        equal: dict[str, list[Option]] = {}
        errors: dict[int, float] = {}
        why: list[str] = []
        is_faint = False
        for source in choice.sources:
            options = choice.options_of(source)
            own = (pair for option in options for pair in option.pairs)
            every = (pair for option in options for pair in every_rule(option))
            changed = changed_values(self.values, self.others, own, every)
            run = self._run(self.source, changed)
            effect = self._error(run, self.base[0], same_side=True)
            if effect <= _CLEAR * self.limit:
                why.append(f"the outputs do not depend on {source}")
                is_faint |= effect > 0
                continue
            known = [(option, self._error_of(option, changed, run)) for option in options]
            if any(error is None for _, error in known):
                return Verdict(why=f"the options of {source} could not be tried")
            fitting = [option for option, error in known if error is not None and error <= self.limit]
            errors.update((id(option), error) for option, error in known if error is not None)
            if any(self.limit < errors[id(option)] <= _CLEAR * self.limit for option in options):
                is_faint = True
                why.append(f"the outputs hardly depend on what becomes of {source}")
                continue
            equal[source] = fitting
        targets = [option.target for options in equal.values() for option in options]
        chosen = [options[0] for options in equal.values() if len(options) == 1]
        chosen = [option for option in chosen if targets.count(option.target) == 1]
        unclear = [source for source, options in equal.items() if len(options) > 1]
        if unclear:
            is_faint = True
            why.append(f"the outputs are the same whichever way it is: {listed(unclear)}")
        unlike = [source for source, options in equal.items() if not options]
        if unlike:
            why.append(f"no option gives the outputs of the source: {listed(unlike)}")
        error = max((errors[id(option)] for option in chosen), default=0.0)
        return Verdict(tuple(chosen), error, "; ".join(why), is_faint)

    def _error_of(self, option: Option, changed: FlatState, run: ModelRun) -> float | None:
        """Return the error of the target's outputs with an option taken; None if it does not fit."""
        arrays: dict[Key, Array] = {}
        for pair in one_way(option):
            made = self._made(pair, changed, is_own=any(pair is own for own in option.pairs))
            if made is None:
                return None
            arrays.update(made)
        arrays = dict(sorted(arrays.items()))
        identity = tuple((key, array.tobytes()) for key, array in arrays.items())
        if identity not in self.known:
            tensors: dict[Key, Tensor] = dict(self.made.tensors())
            tensors.update((key, ArrayTensor(array)) for key, array in arrays.items())
            ties = self.made.metadata.ties
            tensors.update((key, tensors[owner]) for key, owner in ties.items() if owner in arrays)
            weights = self.made.replace(tensors=tensors, metadata=self.made.metadata)
            self.known[identity] = self._run(self.target, weights)
        return self._error(run, self.known[identity])

    def _made(self, pair: PatternPair, changed: FlatState, *, is_own: bool) -> dict[Key, Array] | None:
        """Return what a rule makes of an item that is changed; None if it does not fit.

        That is the same for every item, since all of them have the same values, changed or not.
        """
        sources = tuple(self.values.spec(key) for keys, _ in pair.keys for key in keys)
        targets = tuple(keys for _, keys in pair.keys)
        identity = (targets, sources, pair.equation, tuple(pair.sizes.items()), pair.layer, is_own)
        if identity not in self.arrays:
            states = (self.values, changed)
            before, after = (made_by([pair], state, self.made, self.registry) for state in states)
            self.arrays[identity] = (
                {key: after.read(key) for key in after}
                if before is not None
                and after is not None
                and all(relative_error(before.read(key), self.made.read(key)) <= _ALIKE for key in before)
                else None
            )
        return self.arrays[identity]

    def _run(self, side: Side, weights: FlatState) -> ModelRun:
        return side.run(weights, precision=self.precision, seed=self.seed)

    def _error(self, one: ModelRun, other: ModelRun, *, same_side: bool = False) -> float:
        """Return the error between two runs, with outputs compared as those of the first two were."""
        how = [(pair.source, pair.target, pair.how) for pair in self.base_outputs.pairs]
        if same_side:
            return max(relative_error(one.outputs[name], other.outputs[name]) for name, _, _ in how)
        outputs = compared_outputs(one.outputs, other.outputs, self.limit)
        is_alike = [(pair.source, pair.target, pair.how) for pair in outputs.pairs] == how
        return outputs.error if is_alike else float("inf")

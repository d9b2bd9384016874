"""One rule: its constructors and checks. It is checked when it is made, and is immutable."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Unpack

from bridge_core.axes import (
    Call,
    Equation,
    Expression,
    ListAxes,
    SizeLookup,
    Term,
    parse_ops,
)
from bridge_core.errors import RuleError
from bridge_core.public import renamed
from bridge_core.rules.captures import check_absent, check_same_captures, check_where, list_axes_of
from bridge_core.rules.checks import axis_places, check_fill, check_rearrangement, check_sizes
from bridge_core.rules.conditions import When
from bridge_core.rules.old_names import current_action, with_old_names
from bridge_core.rules.options import Layouts, Options, common_fields, naming, one_pattern
from bridge_core.rules.patterns import Pattern
from bridge_core.rules.segments import COUNT
from bridge_core.rules.where import Where
from bridge_core.state import Key

__all__ = ["Action", "Patterns", "Rule"]


Action = Literal["rename", "rearrange", "layer", "drop", "fill"]

Patterns = str | Pattern | Iterable[str | Pattern]

_ALWAYS = When()
_EVERYWHERE = Where()


@with_old_names
@renamed(radix="where", flat_index="where", lists="list_axes")
@dataclass(frozen=True)
class Rule:
    """One rule; made by `rename`, `rearrange`, `layer`, `drop`, `fill` (keywords: `Options`).

    Args:
        action: What it does: the name of its constructor, and of its key in a rule file.
        sources: Patterns over keys of the source; over layer paths for ``layer``.
        targets: Patterns that make the keys of the target.
        kind: Kind of the layers at the matching paths.
        reason: Why keys are dropped, or filled.
        value: Constant that fills the targets, or dropped keys in the other direction; None for no constant.
        before: Element-wise calls on the sources' tensors. Without an equation all calls are here.
        equation: How axes are rearranged; None for tensors that are copied one to one.
        after: Element-wise calls on the targets' tensors.
        sizes: Axis, or a name in expressions -> its size.
        where: The numbers in names that others give, and comparisons that must hold.
        when: Conditions under which the rule is used.
        optional: Whether the rule may match nothing.
        fallback: Whether other rules that match the same key are used before this one.
        stage: Of a rename: it sees the names that renames of lower stages give.
        layouts: The layouts of the sources and of the targets; None to read it from source to target always.
        origin: Where it was written, e.g. ``rules.toml:12``; empty if not in a file.

    Raises:
        RuleError: The rule is inconsistent, or could not be read in the other direction.

    >>> Rule.rename("module.**", "**").source
    Pattern(segments=('module', AnyN()), collection='')
    >>> print(Rule.rearrange("qkv.weight", ["q.kernel", "k.kernel"], "(q k) in -> in q, in k").reversed())
    rule 'q.kernel', 'k.kernel' -> 'qkv.weight'
    """

    action: Action
    sources: tuple[Pattern, ...] = ()
    targets: tuple[Pattern, ...] = ()
    kind: str | None = None
    reason: str = ""
    value: float | None = None
    before: tuple[Call, ...] = ()
    equation: Equation | None = None
    after: tuple[Call, ...] = ()
    sizes: Mapping[str, Expression] = field(default_factory=dict, hash=False)
    where: Where = _EVERYWHERE
    when: When = _ALWAYS
    optional: bool = False
    fallback: bool = False
    stage: int = 0
    layouts: Layouts = None
    origin: str = ""

    @classmethod
    def rename(cls, source: str | Pattern, target: str | Pattern, **options: Unpack[Options]) -> Rule:
        """Return a rule that renames keys.

        Raises:
            RuleError: A pattern is not valid, or only one of them has a capture.
        """
        with naming(f"'{source}' -> '{target}'", options):
            old, new = Pattern.parse(source), Pattern.parse(target)
            common = common_fields(options, (old, new))
        sources, targets = (old.with_numbers(new.numbers),), (new.with_numbers(old.numbers),)
        return cls("rename", sources, targets, **common)

    @classmethod
    def layer(cls, path: str | Pattern, kind: str, **options: Unpack[Options]) -> Rule:
        """Return a rule that states the kind of layers.

        Raises:
            RuleError: The pattern is not valid.
        """
        pattern, common = one_pattern(path, options)
        return cls("layer", (pattern,), kind=kind, **common)

    @classmethod
    def drop(
        cls, source: str | Pattern, reason: str, *, fill: float | None = None, **options: Unpack[Options]
    ) -> Rule:
        """Return a rule that drops keys; in the other direction they get ``fill``, or stay missing if None.

        Raises:
            RuleError: The pattern is not valid, the reason is empty, or ``fill`` is not a number.
        """
        pattern, common = one_pattern(source, options)
        return cls("drop", (pattern,), reason=reason, value=fill, **common)

    @classmethod
    def fill(cls, target: str | Pattern, value: float, *, reason: str, **options: Unpack[Options]) -> Rule:
        """Return a rule that fills targets with a constant; in the other direction it drops them.

        Raises:
            RuleError: The pattern is not valid, the reason is empty, or the constant is not a number.
        """
        pattern, common = one_pattern(target, options)
        return cls("fill", targets=(pattern,), reason=reason, value=value, **common)

    @classmethod
    def rearrange(
        cls, sources: Patterns, targets: Patterns, ops: str | Iterable[str] = (), **options: Unpack[Options]
    ) -> Rule:
        """Return a rule that makes target tensors from source tensors.

        Args:
            sources: Patterns over keys, one for each term on the left of the equation.
            targets: Patterns over keys, one for each term on the right.
            ops: An equation such as ``"(q k v) in -> in q, in k, in v"``, and calls before or after it:
                ``pad(axis, size)``, ``unpad(axis, size)``, ``offset(number)``, ``cast(from, to)``. Without
                an equation tensors are copied one to one.
            **options: See `Options`.

        Raises:
            RuleError: A pattern, an op, a size or ``where`` is not valid, or they contradict each other.

        >>> rule = Rule.rearrange("h.{i:int}.w", "blocks.w", "out in -> i in out")
        >>> rule.list_axes.left, rule.list_axes.right
        ((('i',),), ((),))
        """
        old, new = _listed(sources), _listed(targets)
        with naming(" -> ".join(", ".join(f"'{p}'" for p in side) for side in (old, new)), options):
            equation, before, after = parse_ops([ops] if isinstance(ops, str) else ops)
            patterns = tuple(map(Pattern.parse, old)), tuple(map(Pattern.parse, new))
            common = common_fields(options, (*patterns[0], *patterns[1]), equation)
        return cls("rearrange", *patterns, before=before, equation=equation, after=after, **common)

    @functools.cached_property
    def label(self) -> str:
        """Where the rule is in a file, or its text if that is not known."""
        return self.origin or str(self).removeprefix("rule ")

    @property
    def full_label(self) -> str:
        """Where the rule is in a file, if that is known, and its text."""
        text = str(self).removeprefix("rule ")
        return f"{self.origin}: {text}" if self.origin else text

    def __post_init__(self) -> None:
        """Check that the rule is complete and consistent, and can be read in both directions."""
        object.__setattr__(self, "action", current_action(self.action))
        try:
            if self.layouts is not None and self.layouts[0] == self.layouts[1]:
                raise RuleError(
                    f"expected two different layouts, got {self.layouts[0]!r} for both: they decide in which "
                    "direction the rule is read.",
                    hint="Leave out layouts= to read it from source to target.",
                )
            check_absent(self)
            if self.action == "rearrange":
                check_rearrangement(self)
                return
            if self.when.needs_shape:
                text = f"a rule with {self.action!r} cannot have the conditions when.rank and when.sizes."
                raise RuleError(text, hint="Use when.config, or remove the condition.")
            check_where(self)
            check_sizes(self)
            if self.action == "rename":
                check_same_captures(self.source, self.targets[0], self.where)
            elif self.where and self.action == "layer":
                raise RuleError("a rule with 'layer' cannot have 'where'.", hint="Remove it.")
            elif self.action in ("drop", "fill"):
                check_fill(self.action, self.reason, self.value)
        except RuleError as err:
            raise self.error(err.message, hint=err.hint) from err

    def __str__(self) -> str:
        """Return the rule's patterns and its action, in one line."""
        sources, targets = (", ".join(f"'{p}'" for p in side) for side in (self.sources, self.targets))
        match self.action:
            case "layer":
                return f"rule {sources}: layer {self.kind}"
            case "drop":
                return f"rule {sources}: drop ({self.reason})"
            case "fill":
                what = "may stay missing" if self.value is None else f"fill with {self.value}"
                return f"rule {targets}: {what} ({self.reason})"
        return f"rule {sources} -> {targets}"

    @property
    def source(self) -> Pattern:
        """The first source pattern.

        Raises:
            RuleError: The rule has no source, since it fills its targets.
        """
        if not self.sources:
            raise self.error("the rule has no source pattern.")
        return self.sources[0]

    @property
    def rename_to(self) -> Pattern | None:
        """The pattern that makes the new key; None for rules that do not rename."""
        return self.targets[0] if self.action == "rename" else None

    @property
    def ops(self) -> tuple[str, ...]:
        """The texts of the calls and the equation, in their order."""
        equation = () if self.equation is None else (self.equation,)
        return tuple(map(str, (*self.before, *equation, *self.after)))

    @functools.cached_property
    def size_names(self) -> frozenset[str]:
        """The names whose sizes must be whole numbers: axes, and the arguments of calls."""
        axes = self.equation.axes if self.equation is not None else frozenset[str]()
        called = (name for call in (*self.before, *self.after) for name in call.size_names)
        return axes.union(called, *self.list_axes.left, *self.list_axes.right)

    @functools.cached_property
    def list_axes(self) -> ListAxes:
        """The list axes of every pattern: captures that the other side has as axes."""
        return list_axes_of(self.sources, self.targets, self.where)

    def error(self, text: str, key: Key | str | None = None, *, hint: str | None = None) -> RuleError:
        """Return an error that names the rule, where it was written, and the tensor ``key``."""
        return RuleError(f"{self}: {text}", path=self.origin or None, key=key, hint=hint)

    def reversed(self) -> Rule:
        """Return the same rule for the other direction; a rule of layers is returned unchanged."""
        return self if self.action == "layer" else self._turned

    @functools.cached_property
    def _turned(self) -> Rule:
        turned: dict[Action, Action] = {"drop": "fill", "fill": "drop"}
        calls = tuple(call.inverse() for call in self.before[::-1])
        after = tuple(call.inverse() for call in self.after[::-1])
        return replace(
            self,
            action=turned.get(self.action, self.action),
            sources=self.targets,
            targets=self.sources,
            before=calls if self.equation is None else after,
            equation=self.equation.inverse() if self.equation is not None else None,
            after=() if self.equation is None else calls,
            when=self.when.reversed(),
            stage=-self.stage,
            layouts=self.layouts[::-1] if self.layouts is not None else None,
        )

    @functools.cached_property
    def as_written(self) -> Rule:
        """The rule with its patterns as they were written, without layouts and origin."""
        own = {name: getattr(self, name) for name in _FIELDS}
        sides = {side: tuple(pattern.as_written for pattern in own[side]) for side in ("sources", "targets")}
        plain = object.__new__(Rule)  # it was checked when it was written
        plain.__dict__.update({**own, **sides, "layouts": None, "origin": ""})
        return plain

    @functools.cached_property
    def _numbers(self) -> frozenset[str]:
        """The captures that are numbers."""
        return frozenset(name for p in (*self.sources, *self.targets) for name in p.numbers)

    @functools.cached_property
    def _counted(self) -> frozenset[str]:
        """The captures that are list axes."""
        axes = (*self.list_axes.left, *self.list_axes.right) if self.action == "rearrange" else ()
        return frozenset(name for names in axes for name in names)

    @functools.cached_property
    def numbered(self) -> Where:
        """Its ``where`` with sizes, and with the config if the rule was read with one."""
        return self.where if self.where.lookup is not None else self.where.at(SizeLookup(self.sizes))

    def bind(self, pattern: Pattern, key: Key) -> dict[str, str] | None:
        """Return the captured values of a key, with the parts of numbers; None for no match.

        Raises:
            RuleError: A capture that is an axis or in an index has leading zeros, or a size has no value.
        """
        captures = pattern.match(key)
        if captures is None:
            return None
        if self.where.texts:
            try:
                captures = self.numbered.split(captures, self._numbers)
            except RuleError as err:
                raise self.error(err.message, key, hint=err.hint) from err
        for name in self._counted:
            if captures and name in captures and not COUNT.fullmatch(captures[name]):
                raise self.error(
                    f"expected a number without leading zeros for {{{name}}}, got {captures[name]!r}.", key
                )
        return captures

    def build(self, pattern: Pattern, captures: Mapping[str, str]) -> Key:
        """Return the key that has these captured values; the inverse of `bind`.

        Raises:
            RuleError: A capture has no value, or contradicts ``where``.
        """
        if not self.where.texts:
            return pattern.fill(captures)
        try:
            return pattern.fill(self.numbered.join(captures, pattern.captures, self._numbers))
        except RuleError as err:
            raise self.error(err.message, hint=err.hint) from err

    def renamed(self, key: Key) -> Key | None:
        """Return the name that a rename gives a key; None if it gives none.

        Raises:
            RuleError: As `bind` and `build`.
        """
        captures = self.bind(self.sources[0], key) if self.action == "rename" else None
        return None if captures is None else self.build(self.targets[0], captures)

    def axis_of(self, call: Call, number: int, *, of_target: bool | None = None) -> int | None:
        """Return the axis of a ``pad`` or ``unpad`` in the tensors of one pattern.

        Args:
            call: One of ``before`` or ``after``.
            number: Index of the pattern among the sources, or the targets.
            of_target: Whether the pattern is a target; by default it is if the call is in ``after``.

        Returns:
            The index of the axis; None if those tensors do not have the axis, and stay unchanged.
        """
        axis = call.args[0]
        if isinstance(axis, int):
            return axis
        terms = self._terms(1 if (call not in self.before if of_target is None else of_target) else 0)
        return terms[number].position(str(axis)) if terms is not None else None

    def applies(self, shape: Sequence[int] = (), config: Mapping[str, Any] | None = None) -> bool:
        """Return whether its conditions hold.

        Args:
            shape: Shape of the first source tensor; of the first target tensor if ``when.of_target``.
            config: The checkpoint's config; None if there is none.

        Raises:
            RuleError: A condition needs a config and gets none.
        """
        try:
            return self.when.holds(shape, self._condition_axes, config, self.sizes)
        except RuleError as err:
            raise self.error(err.message, hint=err.hint) from err

    @functools.cached_property
    def _condition_axes(self) -> dict[str, int]:
        return axis_places(self.condition_term)

    @property
    def condition_term(self) -> Term | None:
        """The term that conditions are about; None without an equation."""
        terms = self._terms(1 if self.when.of_target else 0)
        return terms[0] if terms is not None else None

    def _terms(self, side: int) -> tuple[Term, ...] | None:
        if self.equation is None:
            return None
        return self.equation.right if side else self.equation.left


_FIELDS = tuple(each.name for each in fields(Rule))


def _listed(value: Patterns) -> tuple[str | Pattern, ...]:
    return (value,) if isinstance(value, str | Pattern) else tuple(value)

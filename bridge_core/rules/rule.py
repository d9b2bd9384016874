"""One rule: its constructors and checks. It is checked when it is made, and running never changes it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

from bridge_core.axes import Equation, ListAxes, Term, check_equation, check_part_order
from bridge_core.errors import RuleError
from bridge_core.public import renamed
from bridge_core.rules.captures import check_captures, list_axes_of
from bridge_core.rules.checks import axis_places, check_calls, check_conditions, check_sizes
from bridge_core.rules.conditions import When
from bridge_core.rules.config_sizes import Size, parse_sizes
from bridge_core.rules.flat_index import FlatIndex
from bridge_core.rules.old_names import current_action, with_old_names
from bridge_core.rules.op_calls import Call, parse_ops
from bridge_core.rules.options import Layouts, Options, common_fields, naming
from bridge_core.rules.patterns import COUNT, Pattern
from bridge_core.state import Key

__all__ = ["Action", "Patterns", "resolve_sizes", "Rule"]


Action = Literal["rename", "rearrange", "layer", "drop", "fill"]

Patterns = str | Pattern | Iterable[str | Pattern]

_ALWAYS = When()


@with_old_names
@renamed(radix="flat_index", lists="list_axes")
@dataclass(frozen=True)
class Rule:
    """One rule; make it with `rename`, `rearrange`, `layer`, `drop` or `fill`.

    Args:
        action: What it does, which is the name of its constructor and of its key in a rule file.
        sources: Patterns over keys of the source; over layer paths for ``layer``.
        targets: Patterns that give the keys of the target.
        kind: Kind of the layers at the matching paths.
        reason: Why keys are dropped, or made of nothing.
        value: Constant that fills dropped keys when the rule is read the other way, or that fills the
            targets; None leaves them missing.
        before: Element-wise calls on the sources' tensors. Without an equation all calls are here.
        equation: How axes are rearranged; None for tensors that are copied one to one.
        after: Element-wise calls on the targets' tensors.
        sizes: Axis -> its size.
        flat_index: A capture that is computed from others.
        when: Conditions under which it holds.
        optional: Whether it may match nothing.
        fallback: Whether other rules that match the same key go first.
        layouts: The layouts of the sources and of the targets; None if the caller knows.
        origin: Where it was written, e.g. ``rules.toml:12``.

    Raises:
        RuleError: It is not well formed, or could not be read the other way.

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
    sizes: Mapping[str, Size] = field(default_factory=dict, hash=False)
    flat_index: FlatIndex | None = None
    when: When = _ALWAYS
    optional: bool = False
    fallback: bool = False
    layouts: Layouts = None
    origin: str = ""

    @classmethod
    def rename(cls, source: str | Pattern, target: str | Pattern, **options: Unpack[Options]) -> Rule:
        """Return a rule that renames keys.

        Raises:
            RuleError: A pattern is not well formed, or only one side has a capture.
        """
        with naming(f"'{source}' -> '{target}'", options):
            old, new = Pattern.parse(source), Pattern.parse(target)
            common = common_fields(options)
        sources, targets = (old.with_numbers(new.numbers),), (new.with_numbers(old.numbers),)
        return cls("rename", sources, targets, **common)

    @classmethod
    def layer(cls, path: str | Pattern, kind: str, **options: Unpack[Options]) -> Rule:
        """Return a rule that fixes the kind of layers.

        Raises:
            RuleError: The pattern is not well formed.
        """
        with naming(f"'{path}'", options):
            pattern, common = Pattern.parse(path), common_fields(options)
        return cls("layer", (pattern,), kind=kind, **common)

    @classmethod
    def drop(
        cls, source: str | Pattern, reason: str, *, fill: float | None = None, **options: Unpack[Options]
    ) -> Rule:
        """Return a rule that drops keys; read the other way, they are filled with ``fill`` or stay missing.

        Raises:
            RuleError: The pattern is not well formed, or there is no reason.
        """
        with naming(f"'{source}'", options):
            pattern, common = Pattern.parse(source), common_fields(options)
        return cls("drop", (pattern,), reason=reason, value=fill, **common)

    @classmethod
    def fill(cls, target: str | Pattern, value: float, *, reason: str, **options: Unpack[Options]) -> Rule:
        """Return a rule that fills targets with a constant; read the other way, they are dropped.

        Raises:
            RuleError: The pattern is not well formed, or there is no reason.
        """
        with naming(f"'{target}'", options):
            pattern, common = Pattern.parse(target), common_fields(options)
        return cls("fill", targets=(pattern,), reason=reason, value=value, **common)

    @classmethod
    def rearrange(
        cls,
        sources: Patterns,
        targets: Patterns,
        ops: str | Iterable[str] = (),
        *,
        sizes: Mapping[str, int | str] | None = None,
        where: str = "",
        **options: Unpack[Options],
    ) -> Rule:
        """Return a rule that makes target tensors of source tensors.

        Args:
            sources: Patterns over keys, one for each term on the left of the equation.
            targets: Patterns over keys, one for each term on the right.
            ops: An equation such as ``"(q k v) in -> in q, in k, in v"``, and calls before or after it:
                ``pad(axis, size)``, ``unpad(axis, size)``, ``offset(number)``, ``cast(from, to)``. Without
                an equation tensors are copied one to one.
            sizes: Axis -> its size: a number, ``"config.n_head"``, or two with one ``*`` or ``/`` between.
            where: How a capture of one side is computed from others, e.g. ``"i = block*6 + j"``.
            **options: See `Options`.

        Raises:
            RuleError: It is not well formed, or could not be read the other way.

        >>> rule = Rule.rearrange("h.{i:int}.w", "blocks.w", "out in -> i in out")
        >>> rule.list_axes.left, rule.list_axes.right
        ((('i',),), ((),))
        """
        old, new = _listed(sources), _listed(targets)
        with naming(" -> ".join(", ".join(f"'{p}'" for p in side) for side in (old, new)), options):
            equation, before, after = parse_ops([ops] if isinstance(ops, str) else ops)
            patterns = tuple(map(Pattern.parse, old)), tuple(map(Pattern.parse, new))
            parsed_sizes = parse_sizes(sizes or {})
            flat_index = FlatIndex.parse(where) if where else None
            common = common_fields(options)
        return cls(
            "rearrange",
            *patterns,
            before=before,
            equation=equation,
            after=after,
            sizes=parsed_sizes,
            flat_index=flat_index,
            **common,
        )

    @property
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
                    f"both layouts are {self.layouts[0]}, so its direction is not known; leave the layouts "
                    "out to read it from source to target."
                )
            if self.action == "rearrange":
                self._check_rearrange()
                return
            if self.when.rank is not None or self.when.sizes:
                raise RuleError("only a rule that rearranges tensors can have conditions on rank and sizes.")
            if self.action == "rename":
                lone = set(self.source.captures) ^ set(self.targets[0].captures)
                if lone:
                    names = ", ".join(sorted(lone))
                    raise RuleError(f"it cannot be read in both directions: only one side has {names}.")
            elif self.action in ("drop", "fill"):
                self._check_fill()
        except RuleError as err:
            raise self.error(err.message) from err

    def _check_fill(self) -> None:
        if not self.reason.strip():
            raise RuleError("a reason was expected.")
        if self.value is not None and not isinstance(self.value, int | float):
            raise RuleError(f"the constant is {self.value!r}; a number was expected.")

    def _check_rearrange(self) -> None:
        if not self.sources or not self.targets:
            raise RuleError("it needs a source and a target.")
        check_captures(self.sources, self.targets, self.flat_index, self.equation)
        if self.equation is not None:
            check_equation(self.equation, self.list_axes)
            bounds = self.flat_index.sizes if self.flat_index is not None else {}
            check_part_order(self.equation, self.list_axes, {*self.sizes, *bounds})
        check_calls(self.before, self._terms(0))
        check_calls(self.after, self._terms(1))
        check_sizes(self.sizes, self.equation, (*self.before, *self.after), self.flat_index)
        terms = self._terms(1 if self.when.of_target else 0)
        check_conditions(self.when, terms[0] if terms is not None else None, self.sizes)

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
            RuleError: It has none.
        """
        if not self.sources:
            raise self.error("it has no source.")
        return self.sources[0]

    @property
    def rename_to(self) -> Pattern | None:
        """The pattern that gives the new key; None for rules that do not rename."""
        return self.targets[0] if self.action == "rename" else None

    @property
    def ops(self) -> tuple[str, ...]:
        """The calls and the equation as they are written."""
        equation = () if self.equation is None else (self.equation,)
        return tuple(map(str, (*self.before, *equation, *self.after)))

    @functools.cached_property
    def list_axes(self) -> ListAxes:
        """The list axes of every pattern: captures that the other side holds as axes."""
        return list_axes_of(self.sources, self.targets, self.flat_index)

    def error(self, text: str, key: Key | str | None = None) -> RuleError:
        """Return an error that names the rule and where it was written."""
        return RuleError(f"{self}: {text}", path=self.origin or None, key=key)

    def reversed(self) -> Rule:
        """Return the same rule read the other way; a rule of layers is good both ways as it is."""
        if self.action == "layer":
            return self
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
            layouts=self.layouts[::-1] if self.layouts is not None else None,
        )

    def bind(self, pattern: Pattern, key: Key) -> dict[str, str] | None:
        """Return the captures of a key, with the parts of a number in its place; None if it does not fit.

        Raises:
            RuleError: A capture that is an axis, or made of others, has leading zeros.
        """
        found = pattern.match(key)
        if found is None:
            return None
        if self.flat_index is not None and self.flat_index.whole in found:
            try:
                found = {**found, **self.flat_index.split(found[self.flat_index.whole])}
            except RuleError as err:
                raise self.error(err.message, key) from err
            del found[self.flat_index.whole]
        for axes in (*self.list_axes.left, *self.list_axes.right):
            for name in axes:
                if name in found and not COUNT.fullmatch(found[name]):
                    raise self.error(
                        f"{name} is {found[name]!r}; a number without leading zeros was expected.", key
                    )
        return found

    def build(self, pattern: Pattern, captures: Mapping[str, str]) -> Key:
        """Return the key that captures stand for; the inverse of `bind`.

        Raises:
            RuleError: A capture is missing, or a part of a number is not below its bound.
        """
        if self.flat_index is None or self.flat_index.whole not in pattern.captures:
            return pattern.fill(captures)
        try:
            return pattern.fill({**captures, self.flat_index.whole: self.flat_index.join(captures)})
        except RuleError as err:
            raise self.error(err.message) from err

    def axis_of(self, call: Call, number: int, *, of_target: bool | None = None) -> int | None:
        """Return the axis of a ``pad`` or ``unpad`` in the tensors of one pattern.

        Args:
            call: One of ``before`` or ``after``.
            number: Number of the pattern among the sources, or the targets.
            of_target: Whether it is about the targets; None to go by where the call stands.

        Returns:
            Its index; None if those tensors lack the axis and are left as they are.
        """
        axis = call.args[0]
        if isinstance(axis, int):
            return axis
        terms = self._terms(1 if (call not in self.before if of_target is None else of_target) else 0)
        return terms[number].position(str(axis)) if terms is not None else None

    def applies(self, shape: Sequence[int] = (), config: Mapping[str, Any] | None = None) -> bool:
        """Tell whether its conditions hold.

        Args:
            shape: Shape of the first source tensor; of the first target tensor if ``when.of_target``.
            config: The checkpoint's config; None if none is known.

        Raises:
            RuleError: It goes by the config, and none is known.
        """
        try:
            return self.when.holds(shape, self._condition_axes, config)
        except RuleError as err:
            raise self.error(err.message) from err

    @functools.cached_property
    def _condition_axes(self) -> dict[str, int]:
        """Where the axes of the term stand that the conditions are about."""
        terms = self._terms(1 if self.when.of_target else 0)
        return axis_places(terms[0]) if terms is not None else {}

    def _terms(self, side: int) -> tuple[Term, ...] | None:
        if self.equation is None:
            return None
        return self.equation.right if side else self.equation.left


def _listed(value: Patterns) -> tuple[str | Pattern, ...]:
    return (value,) if isinstance(value, str | Pattern) else tuple(value)


def resolve_sizes(rule: Rule, config: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return the sizes that a rule gives, those that its ``where`` bounds included.

    Raises:
        RuleError: A size stands in the config, which is not known or lacks it.
    """
    sizes = dict(rule.flat_index.sizes) if rule.flat_index is not None else {}
    for name, size in rule.sizes.items():
        try:
            sizes[name] = size.value(config)
        except RuleError as err:
            raise rule.error(f"sizes.{name}: {err.message}") from err
    return sizes

"""Recipes: which a checkpoint fits, and the rules of the one that the caller names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bridge_core.checkpoint import config_beside
from bridge_core.conversion.inputs import weights_in
from bridge_core.conversion.options import ConversionOptions
from bridge_core.errors import BadInputError, RuleError, UsageError
from bridge_core.messages import listed, shown
from bridge_core.plan import Plan, RecipeProblem
from bridge_core.plugins import Recipe, RecipeSide, Registry
from bridge_core.state import FlatState

if TYPE_CHECKING:
    from bridge_core.resolve import NamedSide
    from bridge_core.rules import Rule

__all__ = [
    "GivenRecipe",
    "named_recipe",
    "recognised_recipes",
    "RecognisedRecipe",
    "refuse_if_recognised",
    "with_named_recipes",
    "with_recipe",
]

GivenRecipe = str | Recipe | tuple[str | Recipe, Mapping[str, Any]] | None
"""What callers may pass: the name of a recipe, a recipe, either with values for its sizes, or None."""

_NONE = "none"


@dataclass(frozen=True)
class RecognisedRecipe:
    """A recipe with a side that a checkpoint is one of.

    Args:
        recipe: The recipe.
        turned: Whether the checkpoint is one of the recipe's target, so that its rules are read backwards.
    """

    recipe: Recipe
    turned: bool

    @property
    def side(self) -> RecipeSide:
        """What the checkpoint is."""
        return self.recipe.sides[self.turned]

    @property
    def other(self) -> RecipeSide:
        """What the recipe makes of it."""
        return self.recipe.sides[not self.turned]


def recognised_recipes(state: FlatState, registry: Registry) -> tuple[RecognisedRecipe, ...]:
    """Return the recipes with a side that a checkpoint is one of, by names and config.

    Args:
        state: The checkpoint; no tensor is read. A neutral state is none of any code base.
        registry: The plugins.
    """
    if state.layout == "neutral" or not registry.recipes:
        return ()
    checkpoint = _Checkpoint(state, registry)
    distinct = {part for key in state for part in key}
    parts = frozenset(name for part in distinct for name in part.replace(".", "/").split("/"))
    return tuple(
        RecognisedRecipe(recipe, turned)
        for recipe in registry.recipes.values()
        if recipe.may_fit(parts)
        for turned in (False, True)
        if checkpoint.lacks(recipe.sides[turned]) is None
    )


def named_recipe(recipe: GivenRecipe, registry: Registry) -> Recipe | None:
    """Return the recipe that a caller names; None for none, which ``"none"`` means as well.

    Raises:
        UsageError: No plugin provides it, or the value is of another type.
    """
    if isinstance(recipe, tuple) and len(recipe) == 2 and isinstance(recipe[1], Mapping):
        found = named_recipe(recipe[0], registry)
        return found.with_sizes(recipe[1]) if found is not None else None
    if recipe is None or isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise UsageError(
            f"expected recipe= (--recipe) to be the name of a recipe, got {shown(recipe)}.",
            hint="'ckptbridge recipes' lists all.",
        )
    if recipe == _NONE:
        return None
    if not registry.recipes:
        raise UsageError(
            f"unknown recipe {recipe!r}: no recipe is installed.", hint="Run: pip install ckptbridge-recipes."
        )
    return registry.recipe(recipe)


def with_recipe(
    state: FlatState, options: ConversionOptions, registry: Registry
) -> tuple[FlatState, ConversionOptions]:
    """Return the source and the options with the rules of the recipe that the caller names.

    The source gets the layout of the side that it is one of, where its names do not show another.

    Raises:
        UsageError: The recipe is not installed, or makes another layout than the conversion.
        RuleError: The checkpoint is one of neither side.
    """
    recipe = named_recipe(options.recipe, registry)
    if recipe is None:
        return state, options
    if state.layout == "neutral":
        rules = _neutral_rules(state, recipe)
        return state, replace(options, rules=(*options.rules, *rules), recipe=recipe)
    checkpoint = _Checkpoint(state, registry)
    reasons = [checkpoint.lacks(side) for side in recipe.sides]
    fitting = [RecognisedRecipe(recipe, bool(n)) for n, reason in enumerate(reasons) if reason is None]
    if not fitting:
        raise _unfitting(state, recipe, reasons, registry)
    chosen = next((one for one in fitting if options.to in (one.other.layout, "neutral")), None)
    if chosen is None:
        layout = fitting[0].other.layout
        raise UsageError(
            f"the recipe {recipe.name} makes of {fitting[0].side.name} a checkpoint of "
            f"{fitting[0].other.name}, in the layout {layout}, and not one in the layout {options.to}.",
            hint=f'Pass to="{layout}" (--to {layout}).',
        )
    if state.layout != chosen.side.layout:
        state = weights_in(state.replace(layout=chosen.side.layout), registry)
    rules = recipe.rules()
    if chosen.turned and recipe.source.layout == recipe.target.layout:
        rules = tuple(rule.reversed() for rule in rules)
    model = _NONE if options.model is None else options.model
    return state, replace(options, rules=(*options.rules, *rules), recipe=recipe, model=model)


def with_named_recipes(
    plan: Plan, state: FlatState, options: ConversionOptions, registry: Registry, *, guided: bool = False
) -> Plan:
    """Return a plan that names the recipes for its source.

    If nothing but names and shapes led to the plan, and the source has names of its own code base, a recipe
    is needed. If the plan cannot be run, recipes are a way to do it.

    Args:
        plan: The plan, made without a recipe.
        state: Its source.
        options: The caller's options.
        registry: The plugins.
        guided: Whether a model library gave a model or a template.
    """
    if options.recipe is not None or options.rules or options.to == "neutral":
        return plan
    recognised = [one for one in recognised_recipes(state, registry) if one.other.layout == options.to]
    if options.to == state.layout:
        return replace(plan, notes=(*plan.notes, *_notes(recognised)))
    if not recognised and not plan.ok:
        recognised = [one for one in recognised_recipes(state, registry) if one.other.layout == state.layout]
    if not recognised:
        return plan
    own = [one for one in recognised if not one.side.plain]
    if own and not guided and options.like is None and options.model is None:
        problem = RecipeProblem(_needed_text(own), f"\n{_way(own)}", _names(own))
        return replace(plan, problems=replace(plan.problems, recipe=problem))
    if plan.ok:
        return plan
    sentence = f"The names are those of {recognised[0].side.name}. {_way(recognised, none=False)}"
    ways = (*plan.problems.ways, (sentence, f"--recipe {recognised[0].recipe.name}"))
    return replace(plan, problems=replace(plan.problems, ways=ways))


def refuse_if_recognised(state: FlatState, options: ConversionOptions, registry: Registry) -> None:
    """Refuse a source of undetermined layout that recipes know, naming them.

    Raises:
        RecipeRequired: A recipe has a side that it is one of.
    """
    found = list(recognised_recipes(state, registry))
    if found:
        problem = RecipeProblem(_needed_text(found), f"\n{_way(found, none=False)}", _names(found))
        error = problem.error()
        error.path = state.metadata.provenance.get("path")
        raise error


def _names(found: Iterable[RecognisedRecipe]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.recipe.name for one in found))


def _needed_text(found: list[RecognisedRecipe]) -> str:
    lines = "".join(f"\n  {one.recipe.name}: to {one.other.name}" for one in found)
    return (
        f"the tensors have the names of {found[0].side.name}, which a conversion by names and shapes would "
        f"keep. Recipes give them other ones:{lines}"
    )


def _way(found: list[RecognisedRecipe], *, none: bool = True) -> str:
    texts = [f'recipe="{name}" (--recipe {name})' for name in _names(found)]
    way = f"Pass {', or '.join(texts)}"
    layout = found[0].other.layout
    if layout == found[0].side.layout:
        way += f' with to="{layout}" (--to {layout})'
    return f'{way}; or recipe="none" (--recipe none) to convert by names and shapes.' if none else f"{way}."


def _notes(found: Iterable[RecognisedRecipe]) -> list[str]:
    return [
        f"The names are those of {one.side.name}, and stay; the recipe {one.recipe.name} gives those of "
        f"{one.other.name}."
        for one in found
    ]


def _neutral_rules(state: FlatState, recipe: Recipe) -> tuple[Rule, ...]:
    """Return the rules for a neutral state; none where it records those that it was made with."""
    if state.metadata.rules:
        return ()
    if recipe.source.layout == recipe.target.layout:
        raise UsageError(
            f"a neutral state does not show which side of the recipe {recipe.name} it was.",
            hint="Convert the checkpoint that it was made from, or pass the recipe when it is made.",
        )
    return recipe.rules()


def _unfitting(
    state: FlatState, recipe: Recipe, reasons: Iterable[str | None], registry: Registry
) -> RuleError:
    lines = [
        f"\n  {side.name}: {reason}" for side, reason in zip(recipe.sides, reasons, strict=True) if reason
    ]
    fitting = _names(recognised_recipes(state, registry))
    return RuleError(
        f"the recipe {recipe.name} does not fit: the checkpoint is one of neither side:{''.join(lines)}",
        path=state.metadata.provenance.get("path"),
        hint=f"\nRecipes that fit it: {', '.join(fitting)}."
        if fitting
        else "\n'ckptbridge recipes' lists all recipes.",
    )


class _Checkpoint:
    """What shows which model a checkpoint is one of: its names and its config."""

    def __init__(self, state: FlatState, registry: Registry) -> None:
        self._state = state
        self._registry = registry
        self._config = config_beside(state)
        self._sides: dict[str, NamedSide] = {}

    def lacks(self, side: RecipeSide) -> str | None:
        """Return what a checkpoint of a side would have, and this one has not; None if it is one."""
        known = self._state.layout
        # A layout that only names suggested is not certain.
        is_certain = known is not None and not self._state.metadata.provenance.get("layout")
        if is_certain and side.layout != known:
            return f"its layout is {side.layout}, and the checkpoint's is {known}"
        named = self._named(side.layout)
        absent = [f"'{pattern}'" for pattern in side.exists if not named.has(pattern)]
        if absent:
            return f"no tensor has the name {listed(absent, 3)}"
        present = [f"'{pattern}'" for pattern in side.missing if named.has(pattern)]
        if present:
            return f"it has no tensor named {listed(present, 3)}, and the checkpoint has"
        for entry, values in side.config.items():
            found = self._entry(entry)
            if found is not None and found not in values:
                expected = " or ".join(map(repr, values))
                return f"config.{entry} is {shown(found)}, and {expected} was expected"
        return None

    def _entry(self, entry: str) -> Any:
        """Return an entry of the config; None if there is no config that can be read, or no such entry."""
        value: Any = self._config
        try:
            for part in entry.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        except BadInputError:  # a conversion that needs it refuses it
            return None
        return value

    def _named(self, layout: str) -> NamedSide:
        if layout not in self._sides:
            from bridge_core.resolve import side_of

            self._sides[layout] = side_of(self._state.replace(layout=layout), self._registry)
        return self._sides[layout]

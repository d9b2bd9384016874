"""``ckptbridge recipes``: lists the recipes that are installed, or shows one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.completion import a_recipe
from bridge_core.cli.options import examples, json_option, takes_registry
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.plugins import Recipe, RecipeSide, Registry

__all__ = ["recipes"]

_PROVED = {
    "outputs": "by the outputs of both models",
    "names": "by names and shapes; the models were not run",
}


@click.command(
    epilog=examples(
        "ckptbridge recipes",
        "ckptbridge recipes gemma3-deepmind",
        "ckptbridge convert gemma/ gemma.safetensors --to torch --recipe gemma3-deepmind",
        "ckptbridge recipes --json",
    ),
)
@click.argument("name", required=False, shell_complete=a_recipe)
@json_option
@takes_registry
def recipes(name: str | None, as_json: bool, registry: Registry | None) -> None:
    """List the installed recipes, or show the recipe NAME.

    A recipe is a rule file for a family of real models in two code bases. It is applied by --recipe NAME, in
    the direction that the checkpoint shows.
    """
    from bridge_core.plugins import given_registry

    with aside():
        registry = given_registry(registry)
        shown = list(registry.recipes.values()) if name is None else [registry.recipe(name)]
    if as_json:
        print_json({"recipes": list(map(_document, shown))})
    elif name is not None:
        say(*_lines(shown[0]))
    elif shown:
        width = max(len(recipe.name) for recipe in shown)
        say(*(f"{recipe.name:<{width}}  {recipe.title}" for recipe in shown))
    else:
        say("No recipe is installed. Run: pip install ckptbridge-recipes.")


def _lines(recipe: Recipe) -> Iterator[str]:
    yield f"{recipe.name}: {recipe.title}"
    for label, side, other in (("from", recipe.source, recipe.target), ("to", recipe.target, recipe.source)):
        yield f"{label:<8} {side.name} ({side.layout})"
        if side.layout != other.layout:
            yield f"         ckptbridge convert SRC DST --to {other.layout} --recipe {recipe.name}"
    if recipe.source.layout == recipe.target.layout:
        yield f"         ckptbridge convert SRC DST --to {recipe.source.layout} --recipe {recipe.name}"
    tested = f" ({', '.join(recipe.header.tested)})" if recipe.header.tested else ""
    yield f"proved   {_PROVED[recipe.header.proof]}{tested}"
    yield from (f"note     {note}" for note in recipe.header.notes)
    yield from (f"facts    {fact}" for fact in recipe.header.facts)
    yield f"licence  {recipe.header.licence}"
    yield f"rules    {recipe.path}"


def _document(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "title": recipe.title,
        "source": _side(recipe.source),
        "target": _side(recipe.target),
        "proof": recipe.header.proof,
        "tested": list(recipe.header.tested),
        "facts": list(recipe.header.facts),
        "licence": recipe.header.licence,
        "notes": list(recipe.header.notes),
        "file": str(recipe.path),
    }


def _side(side: RecipeSide) -> dict[str, Any]:
    return {
        "name": side.name,
        "layout": side.layout,
        "exists": list(map(str, side.exists)),
        "missing": list(map(str, side.missing)),
        "config": {entry: list(values) for entry, values in side.config.items()},
        "plain": side.plain,
        "model": side.model,
    }

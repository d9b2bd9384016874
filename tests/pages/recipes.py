"""Makes docs/recipes.md from the headers of the recipes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bridge_core.plugins import Recipe, load_recipe

__all__ = ["installed", "page"]

FOLDER = Path(__file__).parents[2] / "plugins/ckptbridge-recipes/ckptbridge_recipes/recipes"
HEAD = """# Recipes

A recipe maps all weights of one family of real models between two code bases, such as transformers and a JAX
library that has the same model with other names and axes. It is a [rule file](rules.md) with a header, and no
code. `pip install ckptbridge-recipes` installs all of this page.

```sh
ckptbridge recipes                    # lists them; with a name, all that is known of one
ckptbridge inspect model.safetensors  # names those that a checkpoint fits
ckptbridge convert model.safetensors model.msgpack --to flax --recipe NAME
```

- In Python: `convert(..., recipe="NAME")`, or `recipe=("NAME", {"heads": 8})` with values for the recipe's
  sizes, which the command takes as `--set heads=8`. Sizes come from shapes and from the `config.json` next to
  the weights.
- The direction comes from the checkpoint: a recipe finds the side that it is.
- A recipe is strict: a tensor that no rule takes is refused, and so is a checkpoint that is not complete.
- A checkpoint with the names of a code base that only a recipe converts is refused without one; the refusal
  names the recipes. `recipe="none"` (`--recipe none`) converts by names and shapes.
- There and back gives the same bits, except where the notes name a rounding.

The column **proof** names what was compared. *outputs*: the models of both sides were run with the same
weights, every parameter random, and gave the same; where a model is in no package, the tests have one of
their own with its names and structure, which the notes name. *names*: names and shapes were compared with
the sources, and no model was run.

## The header

| key | meaning |
|---|---|
| `title` | one line |
| `proof` | `"outputs"` or `"names"` |
| `tested` | packages and versions of a proof by outputs |
| `facts` | where names, axes and special points come from: repository@commit path, or a package |
| `licence` | of both code bases, and of the weights |
| `notes` | what a user has to know besides |
| `source`, `target` | a table for each side, with the keys below |
| `name` | the code base and the model |
| `exists`, `missing` | patterns of names that every such checkpoint has, or none has |
| `config` | values in the `config.json`, where there is one |
| `plain` | whether the side's names convert meaningfully without a recipe |
| `model` | how to make a tiny model, as Python text |
"""


def page(recipes: Iterable[Recipe]) -> str:
    """Return the page: one table for each family, which is the first word of a recipe's name."""
    families: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        families.setdefault(recipe.name.partition("-")[0], []).append(recipe)
    parts = [HEAD]
    for family, members in families.items():
        parts.append(f"\n## {family}\n\n| recipe | source | target | proof |\n|---|---|---|---|\n")
        for one in members:
            proof = ": ".join(filter(None, (one.header.proof, ", ".join(one.header.tested))))
            sides = " | ".join(f"{side.name} ({side.layout})" for side in one.sides)
            parts.append(f"| `{one.name}` | {sides} | {proof} |\n")
        for one in members:
            parts.append(f"\n**{one.name}.** {one.title}. Licence: {one.header.licence}.\n\n")
            parts += [f"- {note}\n" for note in one.header.notes]
            parts.append(f"- Facts: {'; '.join(f'`{fact}`' for fact in one.header.facts)}\n")
    return "".join(parts)


def installed() -> list[Recipe]:
    """Load all recipes of the plugin's folder, by name."""
    return [load_recipe(path) for path in sorted(FOLDER.glob("*.toml"))]

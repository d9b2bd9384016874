"""docs/recipes.md is what its script makes of the recipes."""

from pathlib import Path

from project.recipes_page import installed, page

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def test_page_is_up_to_date():
    made = page(installed())
    assert PAGE.read_text() == made, "run: python tests/project/recipes_page.py > docs/recipes.md"


def test_page_names_every_recipe():
    recipes = installed()
    assert recipes
    text = PAGE.read_text()
    assert all(f"| `{recipe.name}` |" in text and recipe.title in text for recipe in recipes)

"""The pages of docs/ that are made from the code, and what makes each."""

from __future__ import annotations

from pathlib import Path

from pages import command_line, errors, formats, layers, recipes

__all__ = ["DOCS", "PAGES"]

DOCS = Path(__file__).parents[2] / "docs"

PAGES = {
    "command-line.md": command_line.page,
    "errors.md": errors.page,
    "formats.md": formats.page,
    "layers.md": layers.page,
    "recipes.md": lambda: recipes.page(recipes.installed()),
}

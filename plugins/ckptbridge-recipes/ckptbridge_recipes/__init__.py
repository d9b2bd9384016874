"""Recipes of real models for ckptbridge: one TOML file each in ``recipes/``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core.plugins import Recipe


@hookimpl
def bridge_recipes() -> Iterable[Recipe]:
    """Return a recipe for each file of the folder ``recipes``."""
    from pathlib import Path

    from bridge_core.plugins import Recipe

    return tuple(
        map(Recipe, sorted((Path(__file__).parent / "recipes").glob("*.toml"), key=lambda path: path.stem))
    )

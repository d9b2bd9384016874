"""Recipes: rule files with a header, for the weights of one family of real models in two code bases."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_core.errors import RuleError, UsageError
from bridge_core.io import TomlText, read_toml_head, read_toml_text
from bridge_core.messages import nearest, shown

if TYPE_CHECKING:
    from bridge_core.rules import Pattern, Rule

__all__ = ["load_recipe", "Recipe", "RecipeHeader", "RecipeSide"]

PROOFS = ("outputs", "names")

_HEAD = ("title", "proof", "tested", "facts", "licence", "notes", "source", "target")
_SIDE = ("name", "exists", "missing", "config", "plain", "model")
_LONGEST_TITLE = 100


@dataclass(frozen=True)
class RecipeSide:
    """One side of a recipe: a model, and what shows that a checkpoint is one of it.

    Args:
        name: The code base and the model, such as ``"transformers: Gemma3ForCausalLM"``.
        layout: The layout of its checkpoints.
        exists: Patterns that each match a name of every such checkpoint.
        missing: Patterns that match none.
        config: Entry of the config, dotted where it is nested -> the values that it may have.
        plain: Whether its names are those of a model of the other framework, too, so that a conversion
            without the recipe makes sense.
        model: How to make a tiny model, as Python text; empty if that is not known.
    """

    name: str
    layout: str
    exists: tuple[Pattern, ...]
    missing: tuple[Pattern, ...] = ()
    config: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    plain: bool = False
    model: str = ""


@dataclass(frozen=True)
class RecipeHeader:
    """What a recipe's file has besides its rules.

    Args:
        title: What it is for, in one line.
        source: The side that the rules' sources are of.
        target: The side that their targets are of.
        proof: ``"outputs"`` if tests run the models of both sides; ``"names"`` if they compare names and
            shapes only.
        tested: The packages, with versions, that it was proved with.
        facts: Where names and axes come from.
        licence: The licences of both code bases, and of their weights.
        notes: What a user has to know.
    """

    title: str
    source: RecipeSide
    target: RecipeSide
    proof: str
    tested: tuple[str, ...]
    facts: tuple[str, ...]
    licence: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """The rules for a family of models, in a file with a header; see `load_recipe`.

    The file is read when something of it is asked for: a plugin may have many recipes.

    Args:
        path: The file; its stem is the recipe's name.
        sizes: Name in the file's ``[sizes]`` -> its value in place of the file's.
    """

    path: Path
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.path.stem

    @functools.cached_property
    def header(self) -> RecipeHeader:
        """What the file has besides the rules.

        Raises:
            RuleError: As `load_recipe`; so are the others.
        """
        return _read_header(self.path)

    @property
    def title(self) -> str:
        """What it is for, in one line."""
        return self.header.title

    @property
    def source(self) -> RecipeSide:
        """The side that the rules' sources are of."""
        return self.header.source

    @property
    def target(self) -> RecipeSide:
        """The side that the rules' targets are of."""
        return self.header.target

    @property
    def sides(self) -> tuple[RecipeSide, RecipeSide]:
        """The source and the target."""
        return self.header.source, self.header.target

    def with_sizes(self, sizes: Mapping[str, Any]) -> Recipe:
        """Return the recipe with values of sizes, as ``{"heads": 8}``, in place of its file's."""
        return replace(self, sizes={**self.sizes, **sizes})

    def rules(self) -> tuple[Rule, ...]:
        """Load the rules.

        Where both sides have one layout the rules have none: they are read from source to target.

        Raises:
            RuleError: As `bridge_core.load_rules`; so are the others.
            UsageError: The file states no size of a name in ``sizes``.
        """
        from bridge_core.rules import load_rules

        return load_rules(self.path, sizes=self.sizes)

    def may_fit(self, parts: frozenset[str]) -> bool:
        """Return False where the ``exists`` of neither side can match; no TOML is parsed.

        Args:
            parts: All parts of the names, between dots and slashes.
        """
        return any(literals <= parts for literals in self._literals) if self._literals else True

    @functools.cached_property
    def _literals(self) -> tuple[frozenset[str], ...]:
        """The parts without braces and wildcards that each side's ``exists`` has."""
        found = _EXISTS.findall(read_toml_text(os.fspath(self.path)))
        sides = [{part for text in _QUOTED.findall(array) for part in _parts(text)} for array in found]
        return tuple(map(frozenset, sides)) if len(sides) == 2 else ()


_EXISTS = re.compile(r"^exists[ \t]*=[ \t]*\[([^\]]*)\]", re.MULTILINE)
_QUOTED = re.compile(r"[\"']([^\"'\n]+)[\"']")
_BRACES = re.compile(r"[^./{}]*\{[^{}]*\}[^./{}]*")


def _parts(pattern: str) -> Iterator[str]:
    """Yield the parts of a pattern that a name must have literally."""
    for part in re.split(r"[./]", _BRACES.sub("*", pattern.removesuffix("?"))):
        if part and "*" not in part:
            yield part


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Load the header of a recipe.

    Args:
        path: A rule file with a table ``[recipe]`` before its first rule.

    Raises:
        RuleError: The header is not complete, or has a wrong value.
        SourceNotFound: The file does not exist.
        LimitExceeded: As `bridge_core.load_rules`.
        SystemFailure: The file cannot be read.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UsageError(f"expected the path of a recipe, got {shown(path)}.")
    recipe = Recipe(Path(path))
    recipe.header  # noqa: B018 - read now, so that it is known to be complete
    return recipe


def _read_header(path: Path) -> RecipeHeader:
    toml = read_toml_head(os.fspath(path))
    reader = _Reader(toml, "recipe", _table(toml, toml.document.get("recipe"), "recipe"), _HEAD)
    layouts = [_text(toml, toml.document.get(side), side) for side in ("source", "target")]
    source, target = (
        _side(toml, reader.values.get(side), side, layout)
        for side, layout in zip(("source", "target"), layouts, strict=True)
    )
    header = RecipeHeader(
        title=reader.text("title"),
        source=source,
        target=target,
        proof=reader.text("proof"),
        tested=reader.texts("tested", may_be_absent=True),
        facts=reader.texts("facts"),
        licence=reader.text("licence"),
        notes=reader.texts("notes", may_be_absent=True),
    )
    if len(header.title) > _LONGEST_TITLE or not header.title.isprintable():
        raise reader.error("title", f"one line of at most {_LONGEST_TITLE} characters")
    if header.proof not in PROOFS:
        raise reader.error("proof", f"one of {', '.join(map(repr, PROOFS))}")
    if header.proof == "outputs":
        if not header.tested:
            raise reader.error("tested", "the packages and versions that it was proved with")
        for name, side in (("source", source), ("target", target)):
            if not side.model:
                raise toml.error(
                    f"recipe.{name}.model: expected how to make a tiny model, since proof is 'outputs'.",
                    f"recipe.{name}",
                )
    return header


def _side(toml: TomlText, value: Any, side: str, layout: str) -> RecipeSide:
    from bridge_core.rules import Pattern

    section = f"recipe.{side}"
    reader = _Reader(toml, section, _table(toml, value, section), _SIDE)

    def patterns(key: str, *, may_be_absent: bool = False) -> tuple[Pattern, ...]:
        try:
            return tuple(map(Pattern.parse, reader.texts(key, may_be_absent=may_be_absent)))
        except RuleError as err:
            raise toml.error(f"{section}.{key}: {err.message}", section, key, hint=err.hint) from err

    config = reader.values.get("config", {})
    if not isinstance(config, dict):
        raise reader.error("config", 'a table such as { model_type = "gemma3" }')
    flat = {}
    for entry, expected in _flat(config):
        flat[entry] = tuple(expected) if isinstance(expected, list) else (expected,)
        if not all(isinstance(one, str | int | float | bool) for one in flat[entry]):
            raise reader.error("config", "texts, numbers, true or false, or lists of them")
    plain = reader.values.get("plain", False)
    if not isinstance(plain, bool):
        raise reader.error("plain", "true or false")
    return RecipeSide(
        name=reader.text("name"),
        layout=layout,
        exists=patterns("exists"),
        missing=patterns("missing", may_be_absent=True),
        config=flat,
        plain=plain,
        model=reader.text("model") if "model" in reader.values else "",
    )


def _flat(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the entries of a nested table with dotted names."""
    entries: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, dict):
            entries += [(f"{name}.{inner}", found) for inner, found in _flat(value)]
        else:
            entries.append((name, value))
    return entries


@dataclass(frozen=True)
class _Reader:
    """The keys and values of a table of the header, checked."""

    toml: TomlText
    section: str
    values: Mapping[str, Any]
    known: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse keys that are not known."""
        for key in self.values:
            if key not in self.known:
                raise self.toml.error(
                    f"{self.section}: unknown key {shown(key)}.",
                    self.section,
                    key,
                    hint=nearest(key, self.known),
                )

    def error(self, key: str, expected: str) -> RuleError:
        """Return the error about a value."""
        got = shown(self.values[key]) if key in self.values else "nothing"
        return self.toml.error(
            f"{self.section}.{key}: expected {expected}, got {got}.", f"[{self.section}]", key
        )

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "a text")
        return value

    def texts(self, key: str, *, may_be_absent: bool = False) -> tuple[str, ...]:
        """Return a list of texts that are not empty."""
        value = self.values.get(key, [] if may_be_absent else None)
        good = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
        if not good or not (value or may_be_absent):
            raise self.error(key, "a list of texts")
        return tuple(value or ())


def _table(toml: TomlText, value: Any, section: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        problem = "the file has no" if value is None else "expected a table"
        raise toml.error(
            f"{problem} [{section}].", hint=f"Write it below a line [{section}], before the first [[rule]]."
        )
    return value


def _text(toml: TomlText, value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise toml.error(
            f"{key}: expected the layout of this side, such as 'torch', got {shown(value)}.", key
        )
    return value

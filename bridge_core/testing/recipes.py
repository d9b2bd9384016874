"""The contract of a recipe: it knows its own checkpoints, and converts them completely, there and back."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bridge_core.checkpoint import open_state
from bridge_core.conversion import Report, convert, plan_conversion, recognised_recipes
from bridge_core.errors import BridgeError
from bridge_core.plan import Plan
from bridge_core.plugins import Recipe, RecipeSide, Registry, default_registry, hookimpl
from bridge_core.rules import load_rules
from bridge_core.state import FlatState
from bridge_core.testing.strategies import same_bits

__all__ = ["RecipeContract", "RecipeSample"]

_Weights = Mapping[str, np.ndarray[Any, Any]]
_NUMBER = re.compile("[0-9]+")
_OTHERS = {
    "torch": ("fc.weight", "fc.bias", "layers.0.weight", "embed.weight", "norm.weight", "head.weight"),
    "flax": ("params.Dense_0.kernel", "params.Dense_0.bias", "params.Embed_0.embedding"),
}
"""Names that many models have."""


@dataclass(frozen=True)
class RecipeSample:
    """The weights of one model under the names of both sides, made without the recipe.

    Values are random, and sizes differ wherever they can: heads x head_dim and the width, heads of queries
    and of keys, the number of layers and of everything else.

    Args:
        source: Name -> array, on the recipe's source side. Parts of names are joined by dots for torch, and
            by slashes for trees, as in ``encoder/Dense_0/kernel``.
        target: Likewise on its target side.
        name: What the sample is, for test ids.
        source_config: The ``config.json`` next to the source's checkpoints; None for none.
        target_config: The one next to the target's.
        sizes: Values for ``[sizes]`` of the recipe.
        not_written: Names of either side that a conversion does not write without a template: copies that are
            tied, buffers.
        may_lack: Names of either side without which the checkpoint is complete as well.
        templates: The sides, ``"source"`` and ``"target"``, that can only be written with a template.
        tolerance: How far values that came back may differ, relative to the largest of a tensor; 0.0 for bit
            for bit.
    """

    source: _Weights
    target: _Weights
    name: str = "sample"
    source_config: Mapping[str, Any] | None = None
    target_config: Mapping[str, Any] | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    not_written: frozenset[str] = frozenset()
    may_lack: frozenset[str] = frozenset()
    templates: frozenset[str] = frozenset()
    tolerance: float = 0.0


class RecipeContract(ABC):
    """Subclass it as ``Test...``, set ``recipe`` and make samples.

    Attributes:
        recipe: The recipe under test, from `bridge_core.plugins.load_recipe`.
        registry: Where it is registered; by default everything installed, and the recipe.
        removed: How many tensors of a sample are removed one by one, spread over all; by default one of each
            name, numbers aside. For recipes of so many rules that a plan takes a second.
    """

    recipe: Recipe
    registry: Registry | None = None
    removed: int | None = None

    @abstractmethod
    def samples(self) -> Iterable[RecipeSample]:
        """Make at least one sample; one for each variant that the recipe is for."""

    def _registry(self) -> Registry:
        if self.registry is not None:
            return self.registry
        installed = default_registry()
        if self.recipe.name in installed.recipes:
            return installed
        return installed.extend(
            SimpleNamespace(bridge_recipes=hookimpl(lambda: [self.recipe])), name=self.recipe.name
        )

    def _ways(self, place: Path) -> Iterator[_Way]:
        """Yield each sample in both directions, its checkpoints saved below a place."""
        samples = list(self.samples())
        assert samples, "samples() gives nothing to test with"
        for number, sample in enumerate(samples):
            for turned in (False, True):
                yield _Way(self.recipe, sample, turned, place / f"{number}-{int(turned)}", self._registry())

    # The file

    def test_the_header_is_complete(self) -> None:
        """And the rules can be loaded, and read backwards."""
        recipe = self.recipe
        for key in ("title", "facts", "licence"):
            assert getattr(recipe.header, key), f"{recipe.path.name}: recipe.{key} is empty"
        rules = load_rules(recipe.path)
        assert rules, f"{recipe.path.name}: the file has no rules"
        for rule in rules:
            try:
                rule.reversed()
            except BridgeError as err:
                pytest.fail(f"{recipe.path.name}: a rule cannot be read backwards: {err}")

    # Knowing

    def test_its_checkpoints_are_recognised(self, tmp_path: Path) -> None:
        """As the side that they are; recipes that share the side call it by the same name."""
        for way in self._ways(tmp_path):
            with open_state(way.file, registry=way.registry) as state:
                recognised = recognised_recipes(state, way.registry)
            own = [one.turned for one in recognised if one.recipe.name == self.recipe.name]
            assert own == [way.turned], (
                f"{way}: recognised as {[one.side.name for one in recognised] or 'nothing'}: `exists` has to "
                "match names of every such checkpoint"
            )
            for one in recognised:
                assert one.side.name == way.side.name, (
                    f"{way}: {one.recipe.name} takes it for {one.side.name}"
                )

    def test_other_checkpoints_are_not_recognised(self) -> None:
        """Names that many models have do not show this one."""
        for layout, names in _OTHERS.items():
            tensors = {name: np.ones((2, 3), np.float32) for name in names}
            found = recognised_recipes(FlatState(tensors, layout=layout), self._registry())
            sides = [one.side.name for one in found if one.recipe.name == self.recipe.name]
            assert not sides, (
                f"a checkpoint with the names {', '.join(names)} is taken for {sides[0]}: give `exists` "
                "names that only this model has, or `missing` what it does not have"
            )

    def test_without_it_the_refusal_names_it(self, tmp_path: Path) -> None:
        """Where the layouts differ, unless names and shapes are enough on a side that is plain."""
        for way in self._ways(tmp_path):
            if way.side.layout == way.other.layout or not way.is_recognised():
                continue
            refusal = ""
            try:
                convert(way.file, way.destination, to=way.other.layout, registry=way.registry)
            except BridgeError as err:
                refusal = f"{err} {err.hint}"
            if refusal or not way.side.plain:
                assert self.recipe.name in refusal, f"{way}: {refusal or 'converted without the recipe'}"

    # Converting

    def test_there_and_back(self, tmp_path: Path) -> None:
        """Each side becomes the other, bit for bit, every tensor taken by a rule."""
        ways = list(self._ways(tmp_path))
        if not all(way.is_recognised() for way in ways):
            pytest.skip("its checkpoints are not recognised; see that test")
        for way in ways:
            report = way.convert(way.file, way.destination)
            assert report.verified
            way.check(way.destination, way.made, f"{way}", way.sample.tolerance if way.turned else 0.0)
            if not way.sample.tolerance:
                assert report.exact, f"{way}: {report.notes}"
            back = way.back()
            way.convert(way.destination, back, turned=True)
            way.check(back, way.weights, f"{way}, and back", way.sample.tolerance, turned=True)

    def test_two_steps_make_the_same(self, tmp_path: Path) -> None:
        """By way of a neutral file that was made with the recipe."""
        for way in self._ways(tmp_path):
            if way.needs_template:  # the first step would need it, too
                continue
            if way.side.layout == way.other.layout:  # from neutral it goes back to the names that it had
                continue
            try:
                way.convert(way.file, way.destination)
            except BridgeError:  # another test's matter
                continue
            expected = way.stored(way.destination)
            neutral = way.folder / "neutral.npz"
            way.destination.unlink()
            convert(way.file, neutral, to="neutral", recipe=way.given, registry=way.registry)
            convert(neutral, way.destination, to=way.other.layout, registry=way.registry)
            way.check(
                way.destination, expected, f"{way}, two steps", way.sample.tolerance if way.turned else 0.0
            )

    # Refusing

    def test_a_tensor_more_is_refused(self, tmp_path: Path) -> None:
        """And named."""
        for way in filter(_Way.is_recognised, self._ways(tmp_path)):
            more = {**way.weights, way.joined("not_of_this", "model"): np.ones((3, 5), np.float32)}
            text = ""
            try:
                way.plan(way.saved(more, "more"))
            except BridgeError as err:
                text = f"{err} {err.hint}"
            assert text, f"{way}: a tensor 'not_of_this.model' was taken: name every tensor in the rules"
            assert "not_of_this" in text, f"{way}: the refusal does not name 'not_of_this': {text}"

    def test_a_tensor_less_is_refused(self, tmp_path: Path) -> None:
        """Whichever is missing, except those that the sample names."""
        for way in self._ways(tmp_path):
            names = [name for name in way.weights if name not in way.sample.may_lack | way.sample.not_written]
            # Of names that differ in numbers only, the last one.
            chosen = list({_NUMBER.sub("0", name): name for name in names}.values())
            chosen = chosen[:: -(-len(chosen) // self.removed) if self.removed else 1]
            with open_state(way.file, registry=way.registry) as state:
                for name in chosen if len(names) > 1 else ():
                    less = state.select(lambda key, name=name: name not in _spellings(key))  # type: ignore[misc]
                    assert len(less) == len(state) - 1, f"{way}: {name} is missing"
                    assert way.refuses(less), (
                        f"{way}: converted without {name}: its rule may not be optional, or the sample names "
                        "it in may_lack"
                    )


@dataclass(frozen=True)
class _Way:
    """One direction of a recipe with one sample, and its files."""

    recipe: Recipe
    sample: RecipeSample
    turned: bool
    folder: Path
    registry: Registry

    def __str__(self) -> str:
        return f"{self.sample.name}: from {self.side.name}"

    @property
    def side(self) -> RecipeSide:
        return self.recipe.sides[self.turned]

    @property
    def other(self) -> RecipeSide:
        return self.recipe.sides[not self.turned]

    @property
    def weights(self) -> _Weights:
        return self.sample.target if self.turned else self.sample.source

    @property
    def made(self) -> _Weights:
        return self.sample.source if self.turned else self.sample.target

    @property
    def given(self) -> tuple[Recipe, Mapping[str, Any]]:
        return self.recipe, self.sample.sizes

    @property
    def needs_template(self) -> bool:
        return ("source" if self.turned else "target") in self.sample.templates

    @property
    def file(self) -> Path:
        return self.saved(self.weights, "given")

    @property
    def destination(self) -> Path:
        return self._place("made", turned=not self.turned) / "made.npz"

    def back(self) -> Path:
        return self._place("back", turned=self.turned) / "back.npz"

    def joined(self, *parts: str) -> str:
        return ("." if self.side.layout == "torch" else "/").join(parts)

    def saved(self, weights: _Weights, name: str) -> Path:
        """Save weights as numpy does, next to the side's config."""
        path = self._place(name, turned=self.turned) / "weights.npz"
        np.savez(path, **weights)  # type: ignore[arg-type]
        return path

    def template(self, weights: _Weights) -> Path:
        path = self._place("like", turned=not self.turned) / "like.npz"
        np.savez(path, **{name: np.zeros_like(value) for name, value in weights.items()})  # type: ignore[arg-type]
        return path

    def convert(self, file: Path, destination: Path, *, turned: bool = False) -> Report:
        """Convert strictly with the recipe; ``turned`` for the way back."""
        destination.unlink(missing_ok=True)
        side, wanted = (self.side, self.weights) if turned else (self.other, self.made)
        needs = ("source" if self.turned == (not turned) else "target") in self.sample.templates
        like = self.template(wanted) if needs else None
        return convert(
            file, destination, to=side.layout, like=like, recipe=self.given, registry=self.registry
        )

    def is_recognised(self) -> bool:
        """Return whether the checkpoint is recognised as this side."""
        with open_state(self.file, registry=self.registry) as state:
            found = recognised_recipes(state, self.registry)
        return any(one.recipe.name == self.recipe.name and one.turned == self.turned for one in found)

    def stored(self, path: Path) -> dict[str, np.ndarray[Any, Any]]:
        """Return what a file holds, under the names that the sample writes."""
        joint = "." if self.other.layout == "torch" else "/"
        with open_state(path, registry=self.registry) as state:
            return {_named(key, joint, self.made): np.array(state[key]) for key in state}

    def refuses(self, source: Any) -> bool:
        """Return whether a conversion is refused."""
        try:
            self.plan(source)
        except BridgeError:
            return True
        return False

    def plan(self, source: Any) -> Plan:
        """Plan a conversion as `convert` would do it."""
        like = self.template(self.made) if self.needs_template else None
        return plan_conversion(
            source, to=self.other.layout, like=like, recipe=self.given, registry=self.registry
        )

    def check(
        self, path: Path, expected: _Weights, what: str, tolerance: float, *, turned: bool = False
    ) -> None:
        """Compare a file with the weights that it should hold."""
        joint = "." if (self.side if turned else self.other).layout == "torch" else "/"
        with open_state(path, registry=self.registry) as state:
            stored = {_named(key, joint, expected): state[key] for key in state}
        due = {name: value for name, value in expected.items() if name in stored or self._is_written(name)}
        assert stored.keys() == due.keys(), (
            f"{what}: {sorted(due.keys() - stored.keys())[:5]} are missing, "
            f"{sorted(stored.keys() - due.keys())[:5]} are too many"
        )
        for name, value in due.items():
            assert stored[name].shape == value.shape, (
                f"{what}: {name} is {stored[name].shape}, expected {value.shape}"
            )
            if not tolerance:
                assert same_bits(stored[name], value), f"{what}: {name} has other values"
                continue
            largest = float(np.abs(value.astype(np.float64)).max(initial=0.0))
            apart = np.abs(stored[name].astype(np.float64) - value.astype(np.float64)).max(initial=0.0)
            assert apart <= tolerance * largest, f"{what}: {name} differs by {apart}"

    def _is_written(self, name: str) -> bool:
        return name not in self.sample.not_written

    def _place(self, name: str, *, turned: bool) -> Path:
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        config = self.sample.target_config if turned else self.sample.source_config
        if config is not None:
            (place / "config.json").write_text(json.dumps(config))
        return place


def _named(key: tuple[str, ...], joint: str, expected: _Weights) -> str:
    """Return a key as the sample writes it; parts may hold the separator."""
    return next((name for name in (joint.join(key), *_spellings(key)) if name in expected), joint.join(key))


def _spellings(key: tuple[str, ...]) -> tuple[str, str]:
    return ".".join(key), "/".join(key)

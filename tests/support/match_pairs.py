"""Pairs of models with their true partners, with unlike names, and what headers determine of them.

The ceiling is computed without the matcher: a leaf is determined if no automorphism of its tree moves it;
siblings are alike if all below them has the same shapes, and numbered siblings keep their order.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge_core import FlatState
from bridge_core.proof.matching import Matching, settle_by_values
from bridge_core.proof.matching.match_states import match_states
from bridge_core.state import Key, StateMetadata

__all__ = [
    "MatchPair",
    "Score",
    "determined",
    "encoder",
    "random_pair",
    "recipe_pairs",
    "score",
    "shapes_only",
    "zoo_pairs",
]

_NUMBER = re.compile(r"(.*?)(\d+)")
_LETTERS = "bcdfghjklmnpqrstvwxz"
Shapes = Mapping[Key, tuple[int, ...]]


@dataclass(frozen=True)
class MatchPair:
    """Two checkpoints.

    Args:
        name: What it is.
        source: The source; its values are not real.
        target: The target, likewise.
        truth: Target key -> the source keys that make it.
        values: Both with random values of one checkpoint, where they are known.
    """

    name: str
    source: FlatState
    target: FlatState
    truth: Mapping[Key, frozenset[Key]]
    values: tuple[FlatState, FlatState] | None = None


@dataclass(frozen=True)
class Score:
    """What a matching found, in keys of the source: ``leaves`` have a partner, ``ceiling`` are determined."""

    name: str
    leaves: int
    ceiling: int
    settled: int
    wrong: tuple[Any, ...]
    lost: tuple[Key, ...]
    choices: int
    problems: tuple[str, ...]
    seconds: float
    matching: Matching
    by_values: int = 0


def shapes_only(specs: Mapping[Key, Any], layout: str, form: Mapping[str, str] | None = None) -> FlatState:
    """Return a state with the shapes and dtypes of specs, or of pairs, which takes no memory."""
    arrays = {}
    for key, spec in specs.items():
        shape, dtype = (spec.shape, spec.dtype) if hasattr(spec, "shape") else (spec, np.float32)
        arrays[key] = np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, (0,) * len(shape))
    return FlatState(arrays, layout=layout, metadata=StateMetadata(tree_form=dict(form or {})))


def unlike(state: FlatState, seed: int, kept: int = 0) -> tuple[FlatState, dict[Key, Key]]:
    """Return a state with other names that keep only numbers and the first ``kept`` parts, and old -> new."""
    rng = random.Random(seed)
    words: dict[Any, str] = {}

    def word(place: Any) -> str:
        while place not in words:
            new = "".join(rng.choice(_LETTERS) for _ in range(6))
            if new not in words.values():
                words[place] = new
        return words[place]

    renamed = {}
    for key in state:
        parts = list(key[:kept])
        for at, part in enumerate(key[kept:], kept):
            above = tuple(re.sub(r"\d+", "#", one) for one in key[kept:at])
            match = re.fullmatch(_NUMBER, part)
            if match is None:
                parts.append(word((above, part)))
            else:
                parts.append((word((above, match[1])) if match[1] else "") + match[2])
        renamed[key] = tuple(parts)
    return state.rename(renamed), renamed


def determined(shapes: Shapes) -> set[Key]:
    """Return the leaves that every automorphism of the tree leaves where they are."""
    tree: dict[str, Any] = {}
    for key, shape in shapes.items():
        branch = tree
        for part in key[:-1]:
            branch = branch.setdefault(part, {})
        branch[key[-1]] = shape
    places: dict[Key, int] = {}
    _place(tree, 0, (), places, {})
    counts = Counter(places.values())
    return {key for key, place in places.items() if counts[place] == 1}


def _place(branch: Any, above: int, key: Key, places: dict[Key, int], known: dict[int, int]) -> None:
    if not isinstance(branch, dict):
        places[key] = above
        return
    labels = _labels(branch)
    for name, below in branch.items():
        _place(below, hash((above, labels[name], _form(below, known))), (*key, name), places, known)


def _form(branch: Any, known: dict[int, int]) -> int:
    if not isinstance(branch, dict):
        return hash(("leaf", branch))
    if id(branch) not in known:
        labels = _labels(branch)
        inner = sorted((labels[name], _form(below, known)) for name, below in branch.items())
        known[id(branch)] = hash(("node", *inner))
    return known[id(branch)]


def _labels(names: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each name that is one of a list, -1 for the others."""
    lists: dict[str, list[int]] = {}
    for name in names:
        if match := re.fullmatch(_NUMBER, name):
            lists.setdefault(match[1], []).append(int(match[2]))
    labels = {}
    for name in names:
        match = re.fullmatch(_NUMBER, name)
        numbers = sorted(lists[match[1]]) if match else []
        full = len(numbers) > 1 and numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
        labels[name] = int(match[2]) if match and (not match[1] or full) else -1
    return labels


def score(
    pair: MatchPair, side: str = "", *, seed: int = 0, check: bool = True, by_values: bool = False
) -> Score:
    """Match a pair, one side with unlike names, and compare with the truth.

    Args:
        pair: The pair.
        side: ``"source"`` or ``"target"`` for the side that gets unlike names; empty for none.
        seed: Of the names.
        check: Whether the rules are planned with.
        by_values: Whether what is open is then decided by values, too.
    """
    ours = theirs = None
    collections = any(key[0] in ("params", "batch_stats") for key in pair.target)
    source, target = pair.source, pair.target
    if side == "source":
        source, ours = unlike(source, seed)
    if side == "target":
        target, theirs = unlike(target, seed, int(collections))
    ours, theirs = ours or {k: k for k in source}, theirs or {k: k for k in target}
    started = time.perf_counter()
    matching = match_states(source, target, names=True, check=check)
    seconds = time.perf_counter() - started
    truth = {theirs[key]: frozenset(ours[one] for one in keys) for key, keys in pair.truth.items()}
    settled = list(matching.settled)
    keys = {key for one in settled for key in one.sources}
    wrong = [
        (one.sources, target_key)
        for one in settled
        for target_key in one.targets
        if not set(one.sources) <= truth.get(target_key, frozenset())
    ]
    for choice in matching.choices:
        found = {
            (one.sources, one.targets) for o in choice.options for p in o.pairs for one in p.leaf_pairs()
        }
        if choice.is_orientation and len({one for one, _ in found}) == len(found):
            keys |= {key for one, _ in found for key in one}
    due = {ours[key] for key in _due(pair)}
    valued = _by_values(pair, matching, ours, theirs, wrong) if by_values else 0
    return Score(
        f"{pair.name}{side and f', unlike {side}'}",
        len({key for keys in pair.truth.values() for key in keys}),
        len(due),
        len(keys),
        tuple(wrong),
        tuple(sorted(due - keys)),
        len(matching.choices),
        matching.problems,
        seconds,
        matching,
        valued,
    )


def _by_values(
    pair: MatchPair, matching: Matching, ours: Mapping[Key, Key], theirs: Mapping[Key, Key], wrong: list[Any]
) -> int:
    """Return how many keys of the source headers and values decide, and add wrong ones."""
    assert pair.values is not None
    source, target = (
        state.rename(dict(names)) for state, names in zip(pair.values, (ours, theirs), strict=True)
    )
    truth = {theirs[key]: frozenset(ours[one] for one in keys) for key, keys in pair.truth.items()}
    pairs = settle_by_values(matching, source, target).settled
    wrong += [
        (one.sources, key)
        for one in pairs
        for key in one.targets
        if not set(one.sources) <= truth.get(key, frozenset())
    ]
    return len({key for one in pairs for key in one.sources})


def _due(pair: MatchPair) -> set[Key]:
    """Return the source keys that headers determine: of classes of shapes that both sides have alike."""
    stripped = {key: key[1:] if key[0] == "params" else key for key in pair.target}
    trees = [
        {key: tuple(spec.shape) for key, spec in pair.source.specs().items()},
        {stripped[key]: tuple(spec.shape) for key, spec in pair.target.specs().items()},
    ]
    counts = [Counter(_class(shape) for shape in tree.values()) for tree in trees]
    single = [determined(tree) for tree in trees]
    return {
        next(iter(keys))
        for key, keys in pair.truth.items()
        if len(keys) == 1
        and stripped[key] in single[1]
        and next(iter(keys)) in single[0]
        and counts[0][_class(trees[0][next(iter(keys))])] == counts[1][_class(trees[1][stripped[key]])]
    }


def _class(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(n for n in shape if n != 1))


def encoder(layers: int = 3, width: int = 8, hidden: int = 32, words: int = 50) -> MatchPair:
    """Return an encoder as transformers has it for torch and for Flax."""
    ours: dict[Key, tuple[int, ...]] = {}
    theirs: dict[Key, tuple[int, ...]] = {}
    truth: dict[Key, frozenset[Key]] = {}

    def leaf(path: str, names: tuple[str, str], shape: tuple[int, ...]) -> None:
        key, other = (*path.split("."), names[0]), ("params", *path.split("."), names[1])
        ours[key], theirs[other] = shape, shape[::-1] if names[1] == "kernel" else shape
        truth[other] = frozenset([key])

    def linear(path: str, inputs: int, outputs: int) -> None:
        leaf(path, ("weight", "kernel"), (outputs, inputs))
        leaf(path, ("bias", "bias"), (outputs,))

    def norm(path: str) -> None:
        leaf(path, ("weight", "scale"), (width,))
        leaf(path, ("bias", "bias"), (width,))

    leaf("emb.word", ("weight", "embedding"), (words, width))
    leaf("emb.pos", ("weight", "embedding"), (20, width))
    norm("emb.LayerNorm")
    for n in range(layers):
        block = f"enc.layer.{n}"
        for name in ("query", "key", "value"):
            linear(f"{block}.attention.self.{name}", width, width)
        linear(f"{block}.attention.output.dense", width, width)
        norm(f"{block}.attention.output.LayerNorm")
        linear(f"{block}.intermediate.dense", width, hidden)
        linear(f"{block}.output.dense", hidden, width)
        norm(f"{block}.output.LayerNorm")
    return MatchPair("encoder", shapes_only(ours, "torch"), shapes_only(theirs, "flax"), truth)


def random_pair(seed: int) -> MatchPair | None:
    """Return a random tree of layers as both frameworks hold it; None where Flax has none of a layer.

    Values are distinct in the whole model, so they show which tensors belong together.
    """
    from support.random_models import draw_model

    model = draw_model(np.random.default_rng(seed), odd=False)
    if not model.has_flax:
        return None
    ours = {tuple(name.split(".")): array for name, array in model.torch_state().items()}
    theirs = dict(_flat(model.flax_tree(), ()))
    owner: dict[float, set[Key]] = {}
    for key, array in ours.items():
        for value in np.ravel(array):
            owner.setdefault(float(value), set()).add(key)
    truth = {
        key: frozenset(one for value in np.ravel(array) for one in owner.get(float(value), ()))
        for key, array in theirs.items()
    }
    kinds = ", ".join(place.layer.kind for place in model.places)
    return MatchPair(
        f"random {seed} ({kinds})", shapes_only(ours, "torch"), shapes_only(theirs, "flax"), truth
    )


def _flat(tree: Any, above: Key) -> Iterator[tuple[Key, Any]]:
    for name, below in tree.items():
        if isinstance(below, Mapping):
            yield from _flat(below, (*above, name))
        else:
            yield (*above, name), below


def zoo_pairs(names: tuple[str, ...] | None = None, *, fast: bool = True) -> Iterator[MatchPair]:
    """Yield pairs of transformers' classes, with the truth by the adapter's own plan."""
    from zoo import harness, seq2seq, speech, text, vision

    import bridge_core
    from ckptbridge_transformers import flax_template
    from ckptbridge_transformers.families import rules_for

    registry = bridge_core.plugins.default_registry()
    for case in (*text.CASES, *seq2seq.CASES, *vision.CASES, *speech.CASES):
        if case.no_flax or (names is None and fast and not case.fast) or (names and case.name not in names):
            continue
        with harness.old_clip():
            model, flax = harness.build_torch(case), harness.build_flax(case)
            template = flax_template(flax)
        source, target = (bridge_core.conversion.state_of(one, registry) for one in (model, template))
        rules = rules_for(model.config, type(flax).__name__)
        yield _planned(case.name, model, source, target, rules)


def _planned(name: str, model: Any, source: FlatState, target: FlatState, rules: Any = ()) -> MatchPair:
    import bridge_core

    plan = bridge_core.plan_conversion(model, to="flax", like=target, rules=rules, check=False)
    truth: dict[Key, frozenset[Key]] = {}
    for step in plan.steps:
        for key in step.targets:
            truth[key] = frozenset(step.sources)
    form = dict(target.metadata.tree_form)
    random_source = _random_values(source)
    made = plan.apply(random_source)
    shapes = (shapes_only(source.specs(), "torch"), shapes_only(target.specs(), "flax", form))
    return MatchPair(name, *shapes, truth, (random_source, made))


def _random_values(state: FlatState) -> FlatState:
    """Return a state with random values; tensors that share memory have the same."""
    arrays = {}
    for key, spec in state.specs().items():
        value = np.asarray(state[key])
        seed = value.__array_interface__["data"][0] % (1 << 32)
        new = np.random.default_rng(seed).normal(size=spec.shape)
        arrays[key] = new.astype(spec.dtype) if spec.dtype.kind not in "iub" else value
    return FlatState(arrays, layout=state.layout)


def recipe_pairs(files: str = "*") -> Iterator[MatchPair]:
    """Yield the samples of recipes' tests, with the truth by the recipe's own plan.

    Args:
        files: Which of the recipes' tests, ``test_<files>.py``.
    """
    import importlib.util
    import tempfile

    import bridge_core
    from bridge_core.testing import RecipeContract

    place = Path(__file__).parents[2] / "plugins/ckptbridge-recipes/tests"
    for path in sorted(place.glob(f"test_{files}.py")):
        spec = importlib.util.spec_from_file_location(f"recipes_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        contracts = [
            one
            for one in vars(module).values()
            if isinstance(one, type) and issubclass(one, RecipeContract) and one is not RecipeContract
        ]
        for contract in contracts:
            if not hasattr(contract, "recipe"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                for way in contract()._ways(Path(folder)):
                    if not way.turned:
                        yield _recipe_pair(way, bridge_core)


def _recipe_pair(way: Any, bridge_core: Any) -> MatchPair:
    like = way.template(way.made)
    plan = bridge_core.plan_conversion(
        way.file, to=way.other.layout, like=like, recipe=way.given, registry=way.registry, check=False
    )
    truth = {key: frozenset(step.sources) for step in plan.steps for key in step.targets}
    with (
        bridge_core.open_state(way.file, layout=way.side.layout) as source,
        bridge_core.open_state(like, layout=way.other.layout) as target,
    ):
        form = dict(target.metadata.tree_form)
        return MatchPair(
            f"{way.recipe.name}/{way.sample.name}",
            shapes_only(source.specs(), way.side.layout),
            shapes_only(target.specs(), way.other.layout, form),
            truth,
        )

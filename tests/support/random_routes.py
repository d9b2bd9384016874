"""Random routes of a random model through the bridge, as users go them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch

import bridge_core
import bridge_flax
import bridge_torch
from support.random_edits import EDITS, Edited
from support.random_layers import Path, Tree
from support.random_models import Model, Placed, draw_model

__all__ = ["draw", "Draw", "Listed", "Route"]

SOURCES = {
    "torch": ("module", "state dict", "safetensors", "pt", "state dict and model"),
    "flax": ("tree", "msgpack", "tree and template"),
    "neutral": ("plain dict", "FlatState", "file"),
}
LIKES = {"torch": ("", "module", "state dict"), "flax": ("", "template", "tree")}


@dataclass(frozen=True)
class Draw:
    """A model, and the way that it goes.

    Args:
        seed: What all of it was drawn from.
        model: The model.
        layout: The source's layout.
        source: The source's form, as `SOURCES` names it.
        edit: What is done to the neutral state in between, as `EDITS` names it; empty for nothing.
        step: How the neutral state is handed on: ``""`` (one step), ``state``, ``dict`` or ``file``.
        to: The target's layout.
        like: The template's form, as `LIKES` names it.
        live: Whether the target is made in memory, and not in a file.
        guesses: Whether guesses are accepted.
        unclaimed: Whether unclaimed leaves may cross.
    """

    seed: int
    model: Model
    layout: str
    source: str
    edit: str
    step: str
    to: str
    like: str
    live: bool
    guesses: bool
    unclaimed: bool

    def __str__(self) -> str:
        middle = " ".join(filter(None, ("neutral" if self.step else "", self.step, self.edit)))
        way = " -> ".join(filter(None, (f"{self.layout} {self.source}", middle, self.to)))
        options = [
            f"like={self.like}" if self.like else "",
            "in memory" if self.live else "",
            "accept_guesses" if self.guesses else "",
            "allow_unclaimed" if self.unclaimed else "",
        ]
        return f"draw {self.seed}: {way} ({', '.join(filter(None, options)) or 'no options'})\n{self.model}"


def draw(seed: int) -> Draw:
    """Return one draw."""
    rng = np.random.default_rng(seed)

    def pick(options: Iterable[str]) -> str:
        return str(rng.choice(list(options)))

    model = draw_model(rng, odd=bool(rng.random() < 0.5))
    layouts = ["torch", "torch", *(["flax"] if model.has_flax else []), *(["neutral"] * model.has_neutral)]
    layout = pick(layouts)
    step = pick(("state", "dict", "file")) if layout == "neutral" else pick(("", "", "state", "dict", "file"))
    edit = pick(("", *EDITS)) if step else ""
    to = pick(("torch", "flax"))
    possible = [
        like
        for like in LIKES[to]
        if not like or (to == "torch") or (model.has_linen if like == "template" else model.has_flax)
    ]
    source = pick(s for s in SOURCES[layout] if s != "tree and template" or model.has_linen)
    if layout == "neutral":
        step = {"plain dict": "dict", "FlatState": "state", "file": "file"}[source]
    chance = rng.random(3)
    guesses, unclaimed = bool(chance[0] < 0.25), bool(chance[1] < 0.25)
    live = bool(step) and bool(chance[2] < 0.6)
    return Draw(seed, model, layout, source, edit, step, to, pick(possible), live, guesses, unclaimed)


@dataclass
class Listed:
    """Names that reports and plans list, by how."""

    guessed: set[str] = field(default_factory=set)
    unclaimed: set[str] = field(default_factory=set)
    warned: set[str] = field(default_factory=set)
    knows_unclaimed: bool = False

    def add_plan(self, plan: bridge_core.Plan) -> None:
        document = plan.to_json()
        for step in document["steps"]:
            if step["evidence"] == "guess":
                self.guessed.update((*step["sources"], *step["targets"]))
        self._add(document)

    def add_report(self, document: Mapping[str, Any]) -> None:
        self.guessed.update(document["guessed"])
        self._add(document)

    def _add(self, document: Mapping[str, Any]) -> None:
        self.knows_unclaimed |= "unclaimed" in document
        self.unclaimed.update(document.get("unclaimed", ()))
        for warning in document.get("warnings", ()):
            self.warned.update(warning["keys"])

    def has(self, place: Placed, names: set[str]) -> bool:
        known = {part for name in place.names() for part in (name, name.removeprefix("params."))}
        bare = {re.sub(r"^(params|batch_stats)\.", "", name) for name in names} | names
        prefix = ".".join(place.path)
        return bool(known & bare) or (
            not place.layer.own and any(name.startswith(f"{prefix}.") for name in bare if prefix)
        )


def _options(**options: Any) -> dict[str, Any]:
    """Return the options that this version has."""
    known = inspect.signature(bridge_core.convert).parameters
    return {name: value for name, value in options.items() if value and name in known}


class Route:
    """Runs one draw.

    Args:
        drawn: The draw.
        folder: Where files go.
        layout: What the user says of the source's layout.
    """

    def __init__(self, drawn: Draw, folder: FilePath, *, layout: str | None = None) -> None:
        self.draw = drawn
        self.layout = {} if layout is None else {"layout": layout}
        self.folder = folder
        self.listed = Listed()
        self.options = _options(accept_guesses=drawn.guesses, allow_unclaimed=drawn.unclaimed)
        self.truth = drawn.model
        self.moved: Mapping[Path, Path] = {}

    def run(self) -> Tree:
        """Return the result's tensors, by key without collections."""
        drawn = self.draw
        if not drawn.step:
            source, model = self._source()
            known = {"model": model} if model is not None else {}
            return self._converted(source, {**known, **self.layout, **self.options})
        state = self._neutral()
        if drawn.edit:
            edited: Edited = EDITS[drawn.edit](self.truth, state, np.random.default_rng(drawn.seed))
            state, self.truth, self.moved = edited.state, edited.model, edited.moved
        middle: Any = state
        if drawn.step == "dict":
            middle = dict(state)
        elif drawn.step == "file":
            middle = self.folder / "middle.safetensors"
            bridge_core.save_state(state, middle, overwrite=True)
        if not drawn.live:
            if drawn.step == "dict":
                middle = bridge_core.FlatState(middle, layout="neutral")
            return self._converted(middle, self.options)
        return self._made(middle)

    def _source(self) -> tuple[Any, Any]:
        """Return the source, and the module that is evidence."""
        model, form = self.draw.model, self.draw.source
        if self.draw.layout == "flax":
            tree = model.flax_tree()
            if form == "msgpack":
                from flax.serialization import msgpack_serialize

                file = self.folder / "source.msgpack"
                file.write_bytes(msgpack_serialize(tree))
                return file, None
            return tree, model.linen_template() if form == "tree and template" else None
        state = model.torch_module()
        if form == "module":
            return state, None
        tensors = {name: tensor.detach() for name, tensor in state.state_dict().items()}
        if form == "pt":
            torch.save(tensors, self.folder / "source.pt")
            return self.folder / "source.pt", None
        if form == "safetensors":
            from safetensors.numpy import save_file

            save_file({n: np.array(t.numpy(), order="C") for n, t in tensors.items()}, self._file("source"))
            return self._file("source"), None
        return tensors, state if form == "state dict and model" else None

    def _neutral(self) -> bridge_core.FlatState:
        drawn = self.draw
        if drawn.layout == "neutral":
            return bridge_core.FlatState(drawn.model.neutral_state(), layout="neutral")
        source, module = self._source()
        guesses = {name: value for name, value in self.options.items() if name == "accept_guesses"}
        known = {**({"model": module} if module is not None else {}), **self.layout}
        self.listed.add_plan(bridge_core.plan_conversion(source, to="neutral", **known, **guesses))
        if isinstance(source, FilePath):
            file = self.folder / "neutral.safetensors"
            bridge_core.convert(source, file, to="neutral", overwrite=True, **known, **guesses)
            return bridge_core.open_state(file)
        return bridge_core.to_neutral(source, framework=drawn.layout, module=module, **guesses)

    def _like(self) -> dict[str, Any]:
        form, model = self.draw.like, self.truth
        if not form:
            return {}
        if self.draw.to == "torch":
            module = model.torch_module()
            return {"like": module if form == "module" else module.state_dict()}
        return {"like": model.linen_template() if form == "template" else model.flax_tree()}

    def _file(self, name: str) -> FilePath:
        return self.folder / f"{name}.safetensors"

    def _converted(self, source: Any, options: Mapping[str, Any]) -> Tree:
        like = self._like()
        if isinstance(like.get("like"), dict) and self.draw.to == "torch":
            like = {"like": bridge_core.FlatState(_named(like["like"]), layout="torch")}
        torch_file = self.draw.to == "torch"
        file = self._file("result") if torch_file else self.folder / "result.msgpack"
        report = bridge_core.convert(source, file, to=self.draw.to, overwrite=True, **like, **options)
        self.listed.add_report(report.to_json())
        if torch_file:
            from safetensors.numpy import load_file

            found: Tree = {tuple(name.split(".")): array for name, array in load_file(file).items()}
            for one, other in self.truth.tied:
                pair = [(*one, "weight"), (*other, "weight")]
                held = [found[key] for key in pair if key in found]
                for key in pair if held else ():
                    found.setdefault(key, held[0])
            return found
        from flax.serialization import msgpack_restore

        return _flat(msgpack_restore(file.read_bytes()), self.truth)

    def _made(self, middle: Any) -> Tree:
        like = self._like()
        state: Any = middle
        if isinstance(middle, FilePath):
            state = bridge_core.open_state(middle)
        planned = state if isinstance(state, bridge_core.FlatState) else None
        planned = planned or bridge_core.FlatState(state, layout="neutral")
        options = dict(self.options)
        side = bridge_torch if self.draw.to == "torch" else bridge_flax
        known = inspect.signature(side.from_neutral).parameters
        made = side.from_neutral(state, **like, **{n: v for n, v in options.items() if n in known})
        listing = like
        if isinstance(like.get("like"), dict) and self.draw.to == "torch":
            listing = {"like": bridge_core.FlatState(_named(like["like"]), layout="torch")}
        self.listed.add_plan(bridge_core.plan_conversion(planned, to=self.draw.to, **listing, **options))
        if self.draw.to == "torch":
            return {tuple(name.split(".")): value.detach().numpy() for name, value in made.items()}
        return _flat(made, self.truth)

    @property
    def must_convert(self) -> bool:
        """Whether a refusal is a fault, too: everything that is needed is known."""
        drawn, model = self.draw, self.truth
        if drawn.edit:
            return False
        known = drawn.source in ("module", "state dict and model", "tree and template")
        if drawn.step and drawn.guesses and (not known or drawn.layout == drawn.to):
            return False  # What was guessed on the way is not asked again.
        if drawn.layout == drawn.to:
            # A plain dict has lost what was undecided, so only what was known all along must come back.
            return drawn.step != "dict" or (known and drawn.like in ("module", "template") and model.is_typed)
        if not model.is_typed or (drawn.step == "dict" and drawn.layout != "neutral" and not known):
            return False
        # Flax has two layouts for a transposed convolution, which a bare tree does not tell.
        bare = drawn.like == "tree" or (drawn.layout == "flax" and drawn.source != "tree and template")
        if bare and any(place.layer.kind == "conv_transpose" for place in model.places):
            return False
        if drawn.layout == "flax" and any(place.layer.has_no_bias for place in model.places):
            return False  # Flax's cells have biases; whether they are zeros is not asked.
        if drawn.like in ("module", "template"):
            return True
        return drawn.step != "dict" and known


def _named(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _flat(tree: Any, model: Model) -> Tree:
    """Return the leaves of nested dicts, without the collections that a tree with statistics has."""
    flat: Tree = {}

    def walk(part: Any, path: Path) -> None:
        for name, value in part.items():
            if isinstance(value, Mapping):
                walk(value, (*path, str(name)))
            else:
                flat[*path, str(name)] = np.asarray(value)

    walk(tree, ())
    tops = {key[0] for key in flat}
    if tops and tops <= {"params", "batch_stats"} and not _bare(flat, model):
        return {key[1:]: value for key, value in flat.items()}
    return flat


def _bare(flat: Tree, model: Model) -> bool:
    """Tell whether the heads are submodules of that name."""
    expected = {
        (*place.path, *key) for place in model.places for tree in place.layer.flax for key in tree
    } | {(*p.path, *n.split(".")) for p in model.places for n in p.layer.torch}
    return sum(key in expected for key in flat) > sum(key[1:] in expected for key in flat)

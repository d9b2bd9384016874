"""The verdict on random routes of random models: right, or refused by name.

`run` returns what came of one draw; `Outcome.fault` is empty where the promise holds. A draw depends on its
seed alone, and `shrunk` drops layers as long as the fault stays.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import bridge_core
from support.random_layers import Layer, Tree
from support.random_models import Placed
from support.random_routes import Draw, Route

__all__ = ["Outcome", "run", "shrunk"]

_SPELLINGS = (
    ("weight_g", "parametrizations.weight.original0"),
    ("weight_v", "parametrizations.weight.original1"),
)
_OTHER_SPELLING = {name: other for pair in _SPELLINGS for name, other in (pair, pair[::-1])}


@dataclass(frozen=True)
class Outcome:
    """What came of a draw.

    Args:
        fault: What breaks the promise; empty if nothing does.
        refused: Whether the bridge refused.
        message: The refusal.
    """

    fault: str = ""
    refused: bool = False
    message: str = ""


def judge(route: Route, found: Tree) -> str:
    """Return what is silently wrong in a result; empty if nothing is."""
    to, same = route.draw.to, route.draw.layout == route.draw.to
    left = dict(found)
    faults = []
    for place in route.truth.places:
        faults.append(_judge_place(route, place, left, to=to, same=same))
    if left and not any(faults):
        faults.append(f"nobody's tensors: {', '.join('.'.join(key) for key in left)}")
    return "; ".join(filter(None, faults))


def _readings(place: Placed, drawn: Draw) -> list[Tree]:
    layer, to, layout = place.layer, drawn.to, drawn.layout
    untold = layer.kind == "attention" and (layout == "neutral" or drawn.step == "dict")
    if to == "flax":
        # Without metadata an attention is not told from four linear layers of these names.
        return [*layer.flax, *([layer.neutral] if untold and layer.neutral else [])]
    states = [layer.torch] if layout != "flax" or not layer.back else []
    states += list(layer.back) if layout == "flax" else []
    if layer.kind.endswith("weight_norm"):
        # Either spelling will do where nothing says which one the target has.
        states.append({_OTHER_SPELLING.get(name, name): array for name, array in layer.torch.items()})
    readings = [{tuple(name.split(".")): array for name, array in state.items()} for state in states]
    if untold and layer.neutral:
        names = {"kernel": "weight", "bias": "bias"}
        readings.append({(*k[:-1], names[k[-1]]): v.T for k, v in layer.neutral.items()})
    return readings


def _judge_place(route: Route, place: Placed, left: Tree, *, to: str, same: bool) -> str:
    layer, listed = place.layer, route.listed
    readings = _readings(place, route.draw)
    if layer.kind == "recurrent" and to == "torch" and route.draw.layout == "flax":
        readings += _split_sums(place, left)
    auxiliary = {(*place.path, name): layer.torch[name] for name in layer.auxiliary}
    name = f"{'.'.join(place.path)} ({layer.kind})"
    for reading in readings:
        keys = {(*place.path, *key): array for key, array in reading.items()}
        needed = {key: array for key, array in keys.items() if key not in auxiliary}
        if all(key in left and _same(left[key], array) for key, array in needed.items()):
            for key in (*needed, *auxiliary):
                left.pop(key, None)
            return _unlisted(route, place, name, same=same)
    under = [
        key
        for key in left
        if key[: len(place.path)] == place.path
        and (not layer.own or key in {(*place.path, *n.split(".")) for n in layer.torch})
    ]
    shapes = ", ".join(f"{'.'.join(key)} {list(left[key].shape)}" for key in under) or "nothing"
    made = {key: left.pop(key) for key in under}
    places = [place, *(replace(place, path=old) for new, old in route.moved.items() if new == place.path)]

    def is_listed(names: set[str]) -> bool:
        return any(listed.has(known, names) for known in places)

    if (is_listed(listed.guessed) and route.draw.guesses) or is_listed(listed.warned):
        return ""
    if (layer.hidden or _untold_in_flax(route, layer)) and not _types_seen(route):
        return ""
    if route.draw.unclaimed and made and (is_listed(listed.unclaimed) or not listed.knows_unclaimed):
        return ""
    if same or not made or not all(_is_copied(array, layer) for array in made.values()):
        return f"SILENT {name} became {shapes}"
    if not is_listed(listed.unclaimed):
        kind = "UNLISTED" if route.draw.unclaimed else "SILENT"
        return f"{kind} {name} was copied as {shapes}"
    asked = route.draw.unclaimed or not any(_LAYER_NAME.search(".".join(key)) for key in made)
    return "" if asked else f"UNASKED {name} was copied as {shapes}"


_LAYER_NAME = re.compile(r"weight[^.]*$|kernel$|scale$|embedding$|parametrizations")


def _is_copied(array: np.ndarray, layer: Layer) -> bool:
    """Tell whether a layer holds these values, in whatever layout: then they were copied unchanged."""
    trees = (layer.torch, layer.neutral or {}, *layer.flax)
    return any(_same(array, held) for tree in trees for held in tree.values())


def _unlisted(route: Route, place: Placed, name: str, *, same: bool) -> str:
    """Return what is missing in the report for tensors of a container's own, copied unchanged."""
    drawn, listed = route.draw, route.listed
    if same or not place.layer.own or drawn.like in ("template", "tree", "module", "state dict"):
        return ""
    if place.layer.marked and not (drawn.unclaimed and listed.has(place, listed.unclaimed)):
        return f"UNASKED {name} crossed"
    bare = drawn.source in ("state dict", "safetensors", "pt", "tree", "msgpack")
    if bare and listed.knows_unclaimed and not listed.has(place, listed.unclaimed):
        return f"UNLISTED {name} is not among the unclaimed"
    return ""


def _untold_in_flax(route: Route, layer: Layer) -> bool:
    """Tell whether nobody can know that a Flax kernel belongs to a layer of somebody's own."""
    if route.draw.layout != "flax" or not layer.kind.startswith("in_out"):
        return False
    rows, columns = layer.torch["weight"].shape
    return route.draw.like != "state dict" or rows == columns


def _types_seen(route: Route) -> bool:
    drawn = route.draw
    seen = drawn.source in ("module", "state dict and model", "tree and template") and drawn.step != "dict"
    return seen or drawn.like in ("module", "template")


def _split_sums(place: Placed, left: Tree) -> list[Tree]:
    """Return torch's reading of a recurrent layer with however the two biases of a gate share their sum."""
    reading = {(name,): array for name, array in place.layer.torch.items()}
    for name in list(place.layer.torch):
        if name.startswith("bias_ih"):
            other = name.replace("_ih", "_hh")
            one, two = (left.get((*place.path, n)) for n in (name, other))
            total = place.layer.torch[name] + place.layer.torch[other]
            if one is None or two is None or one.shape != total.shape or not np.array_equal(one + two, total):
                return []
            reading[name,], reading[other,] = one, two
    return [reading]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other)


def run(drawn: Draw) -> Outcome:
    """Run one draw, and return what came of it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        route = Route(drawn, Path(folder))
        try:
            try:
                found = route.run()
            except bridge_core.UsageError as error:
                if "layout" not in str(error):
                    raise
                # A file whose names no framework is known by: the user says whose they are.
                route = Route(drawn, Path(folder), layout=drawn.layout)
                found = route.run()
        except bridge_core.BridgeError as error:
            text = f"{type(error).__name__}: {error}"
            fault = ""
            if route.must_convert:
                fault = f"REFUSED what must convert: {text[:300]}"
            elif not _names_a_tensor(error, route):
                fault = f"REFUSED without a name: {text[:300]}"
            return Outcome(fault, refused=True, message=text)
        except Exception as error:
            return Outcome(f"RAW {type(error).__name__}: {str(error)[:200]}")
        return Outcome(judge(route, found))


def _names_a_tensor(error: bridge_core.BridgeError, route: Route) -> bool:
    names = {name for model in (route.draw.model, route.truth) for p in model.places for name in p.names()}
    attributes = ("candidates", "reasons", "unclaimed", "missing", "unexpected", "mismatched")
    mentioned = {name for attribute in attributes for name in getattr(error, attribute, ())}
    text = f"{error} {' '.join(mentioned)}".replace("/", ".")
    names |= {f"{'.'.join(place.path)}." for place in route.truth.places if place.path}
    names |= {name.removeprefix("params.") for name in names}
    if any(name in text for name in names):
        return True
    folded = [re.escape(word) for word in re.findall(r"[\w.{},]*\{[\w.{},]*", text)]
    patterns = [re.sub(r"\\\{.*?\\\}", r"[^.]+", word) for word in folded]
    return any(re.fullmatch(rf"(.*\.)?{pattern}", name) for pattern in patterns for name in names)


def shrunk(drawn: Draw) -> tuple[Draw, Outcome]:
    """Return the draw with as few layers as keep its fault, and that fault."""
    outcome = run(drawn)
    smaller = True
    while smaller and len(drawn.model.places) > 1:
        smaller = False
        for number in range(len(drawn.model.places)):
            trial = replace(drawn, model=drawn.model.without(number))
            found = run(trial)
            if found.fault and found.fault.split()[0] == outcome.fault.split()[0]:
                drawn, outcome, smaller = trial, found, True
                break
    return drawn, outcome

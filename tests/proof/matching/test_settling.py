"""What headers leave open is settled by running both models, and only what outputs depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.errors import refused
from support.toy_models import Container, Function, Linear, Norm, ToyModel, toy_registry

from bridge_core import MismatchError, StateMetadata, UsageError
from bridge_core.proof.matching import match, settle_by_running
from bridge_core.proof.matching.match_states import match_states
from bridge_core.proof.running import model_side, with_given_inputs

REGISTRY = toy_registry()
INPUTS = np.random.default_rng(0).standard_normal((3, 5, 6)).astype("float32")

TANH = Function(lambda x, run: np.tanh(x))


@dataclass
class Matrix:
    """A square matrix under a name that no layer has, turned in the second framework or not."""

    turned: bool
    size: int = 6

    def leaves(self, second: bool) -> dict[str, Any]:
        return {"array" if second else "table": (self.size, self.size)}

    def apply(self, x: Any, w: dict[str, Any], run: Any) -> Any:
        return run.dot(x, w["table"] if "table" in w else w["array"].T if self.turned else w["array"])


@dataclass
class Sum:
    """Two matrices whose products are added, so that either may be the other."""

    def leaves(self, second: bool) -> dict[str, Any]:
        return {name: (6, 6) for name in (("c", "d") if second else ("a", "b"))}

    def apply(self, x: Any, w: dict[str, Any], run: Any) -> Any:
        return sum(run.dot(x, matrix) for matrix in w.values())


def model(framework: str, modules: dict[str, Any], join: Any = None) -> ToyModel:
    return ToyModel(framework, Container(modules, join))


def chain(names: Any, eps: float = 1e-5) -> dict[str, Any]:
    """Linear layers of one size and norms, in the order of the names."""
    modules: dict[str, Any] = {}
    for number, name in enumerate(names):
        modules[name] = Linear(6, 6) if number % 2 == 0 else Norm(6, eps)
        modules[f"{name}_then"] = TANH
    return modules


def sides(source: ToyModel, target: ToyModel) -> tuple[Any, Any]:
    return with_given_inputs(
        INPUTS, model_side(source, "source", REGISTRY), model_side(target, "target", REGISTRY)
    )


def settled(source: ToyModel, target: ToyModel) -> tuple[Any, Any]:
    """Return the matching before and after running."""
    ours, theirs = sides(source, target)
    states = [side.weights.replace(metadata=StateMetadata()) for side in (ours, theirs)]
    matching = match_states(*states, REGISTRY)
    return matching, settle_by_running(matching, ours, theirs, registry=REGISTRY)


def names_of(matching: Any) -> dict[str, str]:
    return {pair.sources[0][-2]: pair.targets[0][-2] for pair in matching.settled}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("first", ["torch", "flax"])
def test_layers_of_one_size_are_told_apart_whatever_their_names(seed, first):
    rng = np.random.default_rng(seed)
    ours = [f"{letter}w" for letter in rng.permutation(list("abcdefg"))]
    theirs = [f"{letter}z" for letter in rng.permutation(list("hijklmn"))]
    other = "flax" if first == "torch" else "torch"
    before, after = settled(model(first, chain(ours)), model(other, chain(theirs)))
    assert before.choices
    assert after.complete
    assert names_of(after) == dict(zip(ours, theirs, strict=True))
    assert "by running (error " in after.rules_text


@pytest.mark.parametrize("turned", [False, True])
def test_the_orientation_of_a_square_matrix_is_settled(turned):
    source = model("torch", {"p": Matrix(turned), "t": TANH, "q": Matrix(turned)})
    target = model("flax", {"u": Matrix(turned), "t": TANH, "v": Matrix(turned)})
    before, after = settled(source, target)
    assert before.choices
    assert after.complete
    assert names_of(after) == {"p": "u", "q": "v"}
    assert all(bool(pair.equation) == turned for pair in after.pairs)


def test_containers_are_told_apart_and_then_what_is_in_them():
    def blocks(names: str) -> dict[str, Any]:
        one, two, *inner = names
        return {
            name: Container({part: Linear(6, 6, bias=False) for part in inner}, lambda x, y: x + np.tanh(y))
            for name in (one, two)
        }

    before, after = settled(model("torch", blocks("abcd")), model("flax", blocks("zyxw")))
    assert before.choices
    assert after.complete
    pairs = {pair.sources[0][:2]: pair.targets[0][:2] for pair in after.settled}
    assert pairs == {
        ("a", "c"): ("z", "x"),
        ("a", "d"): ("z", "w"),
        ("b", "c"): ("y", "x"),
        ("b", "d"): ("y", "w"),
    }


def test_what_outputs_do_not_depend_on_stays_open():
    def unused(names: str) -> dict[str, Any]:
        side = Container({name: Linear(6, 6) for name in names[2:]}, lambda x, _: x)
        return {names[0]: Linear(6, 6), "t": TANH, names[1]: Linear(6, 6), "side": side}

    _, after = settled(model("torch", unused("abcd")), model("flax", unused("zyxw")))
    (choice,) = after.choices
    assert choice.sources == ("side.c", "side.d")
    assert "do not depend on side.c" in choice.reason
    assert choice.reason in after.rules_text
    assert names_of(after) == {"a": "z", "b": "y"}


def test_what_may_be_either_stays_open():
    _, after = settled(model("torch", {"m": Sum()}), model("flax", {"m": Sum()}))
    assert not after.pairs
    assert "the same whichever way" in after.choices[0].reason


def test_models_that_differ_settle_nothing():
    names = ["aw", "bw", "cw", "dw", "ew"]
    source, target = (
        model("torch", chain(names)),
        model("flax", chain(["vz", "wz", "xz", "yz", "zz"], eps=1e-2)),
    )
    before, after = settled(source, target)
    assert len(after.choices) == len(before.choices)
    assert "something else differs" in after.choices[0].reason


def test_the_number_of_runs_grows_with_the_items_and_not_with_their_orders():
    source = model("torch", chain([f"a{letter}" for letter in "abcdefgh"]))
    target = model("flax", chain([f"z{letter}" for letter in "hgfedcba"]))
    runs = []
    for side, toy in zip(sides(source, target), (source, target), strict=True):
        run = side.framework.run_model
        side.framework.run_model = lambda *a, run=run, toy=toy, **k: runs.append(toy) or run(*a, **k)
    ours, theirs = sides(source, target)
    matching = settle_by_running(
        match_states(ours.weights, theirs.weights, REGISTRY), ours, theirs, registry=REGISTRY
    )
    assert matching.complete
    assert len(runs) <= 2 * 8 + 8
    for side in (ours, theirs):
        del side.framework.run_model


def test_the_call_runs_the_models_that_it_is_given(tmp_path):
    source, target = model("torch", chain(["aw", "bw", "cw"])), model("flax", chain(["zw", "yw", "xw"]))
    matching = match(source_model=source, model=target, prove=True, inputs=INPUTS, registry=REGISTRY)
    assert matching.complete
    assert names_of(matching) == {"aw": "zw", "bw": "yw", "cw": "xw"}
    assert not match(source_model=source, model=target, registry=REGISTRY).complete


def test_models_of_other_weights_are_refused():
    source, target = model("torch", chain(["aw", "bw", "cw"])), model("flax", chain(["zw", "yw", "xw"]))
    weights = {f"net.{n}.weight": np.zeros((6, 6), "float32") for n in ("aw", "cw")}
    weights |= {f"net.{n}.bias": np.zeros(6, "float32") for n in ("aw", "cw")}
    weights |= {"net.bw.weight": np.ones(6, "float32"), "net.bw.bias": np.ones(6, "float32")}
    with refused(MismatchError, "net.aw.weight"):
        match(
            weights,
            layout="torch",
            source_model=source,
            model=target,
            prove=True,
            inputs=INPUTS,
            registry=REGISTRY,
        )
    with refused(UsageError, "inputs", hint="prove=True (--prove)"):
        match(source_model=source, model=target, inputs=INPUTS, registry=REGISTRY)

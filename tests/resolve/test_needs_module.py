"""A transform that only a module's type shows: no candidate without it, and used wherever it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import randomise
from torch import nn

from bridge_core import (
    AmbiguousLayerError,
    LayerKind,
    LayerTransform,
    Leaf,
    Registry,
    Rule,
    convert,
    default_registry,
    from_neutral,
    hookimpl,
    open_state,
    plan_conversion,
    to_neutral,
)
from bridge_core.testing import LayerContract


class Turned(nn.Module):
    """A linear layer whose weight stands the other way round, as in GPT-2."""

    def __init__(self, given, made):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(given, made))
        self.bias = nn.Parameter(torch.zeros(made))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.turned = Turned(3, 5)
        self.plain = nn.Linear(3, 5)


TYPE = f"{Turned.__module__}.{Turned.__qualname__}"
LEAVES = (Leaf("weight", "kernel", "in out"), Leaf("bias", "bias", "out", optional=True))
THING = LayerKind("thing", {"kernel": "in out", "bias": "out"})
FLAX_THING = LayerTransform(
    "flax.thing", "thing", (Leaf("kernel", "kernel", "in out"), Leaf("bias", "bias", "out"))
)
TURNED = LayerTransform("torch.turned", "linear", LEAVES, (TYPE,), needs_module=True)


def extended(*transforms, kinds=()):
    class Plugin:
        @hookimpl
        def bridge_layer_kinds(self):
            return kinds

        @hookimpl
        def bridge_layer_transforms(self):
            return transforms

    return default_registry().extend(Plugin())


@pytest.fixture(scope="module")
def registry():
    return extended(TURNED)


@pytest.fixture(scope="module")
def net():
    return randomise(Net())


class TestTurned(LayerContract):
    transforms = (TURNED,)
    registry: Registry = extended(TURNED)


def test_the_module_shows_it(net, registry):
    neutral = to_neutral(net, framework="torch", registry=registry)
    for name in ("turned", "plain"):
        assert neutral.spec((name, "kernel")).shape == (3, 5)
    assert np.array_equal(neutral["turned", "kernel"], net.turned.weight.detach().numpy())
    assert np.array_equal(neutral["plain", "kernel"], net.plain.weight.detach().numpy().T)


def test_without_the_module_it_is_no_candidate(registry):
    """Neither by structure, nor by guess, nor by a rule that names the kind."""
    names = {"a.weight": np.ones((3, 5), "f4"), "b.weight": np.ones((3, 5), "f4"), "b.bias": np.ones(3, "f4")}
    without = to_neutral(names, framework="torch")
    neutral = to_neutral(names, framework="torch", registry=registry)
    assert neutral.metadata.layers == without.metadata.layers
    assert "torch.turned" not in neutral.metadata.layers["a",].candidates
    with pytest.raises(AmbiguousLayerError) as caught:
        plan_conversion(names, to="flax", registry=registry)
    assert "turned" not in str(caught.value)
    for options in ({"accept_guesses": True}, {"rules": [Rule.layer("*", "linear")]}):
        plan = plan_conversion(names, to="flax", registry=registry, **options)
        assert {spec.shape for spec in plan.target_specs().values()} == {(5, 3), (3,)}


def test_another_type_of_the_kind_is_not_read_so(registry):
    """A square weight fits both ways; only the type tells."""
    neutral = to_neutral(randomise(nn.Linear(4, 4)), framework="torch", registry=registry)
    assert "torch.turned" not in neutral.metadata.layers[()].transforms.values()
    wide = {"turned.weight": np.ones((3, 5), "f4"), "turned.bias": np.ones(5, "f4")}
    plan = plan_conversion(wide, to="flax", registry=registry, check=False)
    assert not plan.ok, "a bias of the other side proves that it is no plain linear layer"


def test_it_is_never_the_default_that_is_written(registry):
    tree = {"turned": {"kernel": np.arange(15, dtype="f4").reshape(3, 5), "bias": np.ones(5, "f4")}}
    known = extended(_first_of("turned_first", "thing"), _plain_of("thing"), FLAX_THING, kinds=(THING,))
    for kind, registered in (("linear", registry), ("thing", known)):
        rules = [Rule.layer("turned", kind)]
        neutral = to_neutral(tree, framework="flax", registry=registered, rules=rules)
        assert neutral.metadata.layers["turned",].kind == kind
        made = from_neutral(neutral, framework="torch", registry=registered)
        assert tuple(made["turned.weight"].shape) == (5, 3)


def test_a_module_of_another_type_is_not_read_so(registry):
    """Its weight fits the one that needs its own type, and not its own."""
    odd = nn.Linear(5, 3)
    odd.weight, odd.bias = nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(5))
    neutral = to_neutral(nn.ModuleDict({"odd": odd}), framework="torch", registry=registry)
    assert set(neutral) == {("odd", "weight"), ("odd", "bias")}, "it is no linear layer"


def _first_of(name, kind):
    return LayerTransform(f"torch.{name}", kind, LEAVES, (TYPE,), needs_module=True)


def _plain_of(kind):
    leaves = (Leaf("weight", "kernel", "out in"), Leaf("bias", "bias", "out", optional=True))
    return LayerTransform(f"torch.plain_{kind}", kind, leaves, ("somewhere.Thing",))


def test_the_template_shows_it(net, registry):
    neutral = to_neutral(net, framework="torch", registry=registry)
    forgotten = neutral.replace(metadata=neutral.metadata.with_(layers={}))
    for state in (neutral, forgotten):
        made = from_neutral(state, framework="torch", like=net, registry=registry, accept_guesses=True)
        assert torch.equal(made["turned.weight"], net.turned.weight)
        assert torch.equal(made["plain.weight"], net.plain.weight)


@pytest.mark.parametrize(
    "first", [False, True], ids=["beside the usual one", "registered before the usual one"]
)
def test_metadata_remembers_it(net, tmp_path, first):
    """Through a neutral file, and through one of another framework."""
    if first:
        things = (_first_of("turned_first", "thing"), _plain_of("thing"), FLAX_THING)
        registry = extended(*things, kinds=(THING,))
    else:
        registry = extended(TURNED)
    for middle, to in (("a.safetensors", "neutral"), ("b.safetensors", "flax")):
        convert(net, tmp_path / middle, to=to, registry=registry)
        back = tmp_path / f"back-{middle}"
        convert(tmp_path / middle, back, to="torch", registry=registry)
        with open_state(back, registry=registry) as state:
            for name, tensor in net.state_dict().items():
                assert np.array_equal(state[tuple(name.split("."))], tensor.numpy()), (middle, name)


@pytest.mark.parametrize(("given", "made"), [(3, 5), (4, 4)])
def test_its_counterpart_is_possible_where_the_target_tells_no_types(given, made):
    twin = LayerTransform(
        "flax.turned",
        "linear",
        (Leaf("kernel", "kernel", "out in"), Leaf("bias", "bias", "out", optional=True)),
        ("some.flax.Turned",),
        needs_module=True,
    )
    registry = extended(TURNED, twin)
    module = randomise(Turned(given, made))
    neutral = to_neutral(module, framework="torch", registry=registry)
    like = {"params": {"kernel": np.zeros((made, given)), "bias": np.zeros(made)}}
    if given == made:
        with pytest.raises(AmbiguousLayerError, match=r"\bflax\.linear\b.*\bflax\.\w+"):
            from_neutral(neutral, framework="flax", like=like, registry=registry)
        return
    made_of = from_neutral(neutral, framework="flax", like=like, registry=registry)
    np.testing.assert_array_equal(made_of["params"]["kernel"], module.weight.detach().numpy().T)
    plain = to_neutral(nn.Linear(4, 4), framework="torch", registry=registry)
    square = {"params": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}}
    assert from_neutral(plain, framework="flax", like=square, registry=registry)


def test_a_transform_that_needs_a_module_names_one():
    """The contract of layers notices one that nothing can ever show."""
    transform = LayerTransform("torch.turned", "linear", LEAVES, needs_module=True)

    class Contract(LayerContract):
        transforms = (transform,)
        registry = extended(transform)

    with pytest.raises(AssertionError, match="module"):
        Contract().test_everything_that_is_named_is_registered()

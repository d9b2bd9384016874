"""Two steps through a saved neutral file end in the same bytes as one, and nothing is forgotten between."""

from __future__ import annotations

import dataclasses

import flax.linen as linen
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from support.arrays import assert_same_bits
from support.errors import refused
from support.examples import examples
from support.models import assert_same_state_dict, from_neutral, randomise, to_neutral
from torch import nn

import bridge_flax
from bridge_core import (
    AmbiguousLayerError,
    UsageError,
    convert,
    default_registry,
    open_state,
    plan_conversion,
    save_state,
    verify,
)

FORMATS = [name for name, form in default_registry().formats.items() if form.capabilities.metadata]
SUFFIX = {name: form.extensions[0] for name, form in default_registry().formats.items()}


class Model(nn.Module):
    """Layers that are decided and undecided by names alone, a tie, a counter, own parameters."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(6, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.conv = nn.Conv2d(3, 3, 2)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.bn = nn.BatchNorm2d(3)
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 6, bias=False)
        self.lm_head.weight = self.wte.weight
        self.gamma = nn.Parameter(torch.zeros(4))
        self.register_buffer("table", torch.zeros(2, dtype=torch.int64))


class LinenModel(linen.Module):
    def setup(self):
        self.wte = linen.Embed(6, 4)
        self.layers = [linen.Dense(4) for _ in range(3)]
        self.conv = linen.Conv(3, (2, 2))
        self.up = linen.ConvTranspose(2, (2, 2), transpose_kernel=True)
        self.bn = linen.BatchNorm(use_running_average=True)
        self.norm = linen.LayerNorm()
        self.lm_head = linen.Dense(6, use_bias=False)
        self.gamma = self.param("gamma", linen.initializers.zeros, (4,))
        self.table = self.param("table", linen.initializers.zeros, (2,), jnp.int32)

    def __call__(self, tokens, image):
        x = self.wte(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x)), self.up(self.bn(self.conv(image)))


def model():
    made = randomise(Model())
    made.bn.num_batches_tracked.fill_(12345)
    with torch.no_grad():
        made.table.copy_(torch.tensor([2**40, -1]))
    return made


def linen_template():
    return bridge_flax.template(LinenModel(), jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 4, 4, 3)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The model as users have it: a torch file with its tie, a safetensors file without the tied key."""
    folder = tmp_path_factory.mktemp("sources")
    source = model()
    torch.save(source.state_dict(), folder / "model.pt")
    duplicate_tied = {
        name: tensor for name, tensor in source.state_dict().items() if name != "lm_head.weight"
    }
    safetensors.torch.save_file(duplicate_tied, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


ENDS = [
    ("flax", "msgpack"),
    ("flax", "safetensors"),
    ("flax", "npz"),
    ("torch", "torch"),
    ("torch", "safetensors"),
]


@pytest.mark.parametrize(("to", "form"), ENDS)
@pytest.mark.parametrize("middle", FORMATS)
@pytest.mark.parametrize("source", ["model.pt", "model.safetensors"])
def test_two_steps_and_one_give_the_same_bytes(files, tmp_path, source, middle, to, form):
    evidence = {"model": Model()}
    once, twice = tmp_path / f"once{SUFFIX[form]}", tmp_path / f"twice{SUFFIX[form]}"
    neutral = tmp_path / f"neutral{SUFFIX[middle]}"
    convert(files / source, once, to=to, format=form, **evidence)
    convert(files / source, neutral, to="neutral", format=middle, **evidence)
    convert(neutral, twice, to=to, format=form)
    assert once.read_bytes() == twice.read_bytes()


def test_guesses_that_are_accepted_on_the_way_to_neutral_are_made_and_reported(files, tmp_path):
    plain, guessed = tmp_path / "plain.safetensors", tmp_path / "guessed.safetensors"
    convert(files / "model.pt", plain, to="neutral")
    report = convert(files / "model.pt", guessed, to="neutral", accept_guesses=True)
    assert ("wte", "embedding") in report.guessed
    with open_state(plain) as left, open_state(guessed) as settled:
        assert left.metadata.layers["wte",].kind is None
        assert settled.metadata.layers["wte",].kind == "embedding"


def test_a_neutral_target_takes_no_template(files, tmp_path):
    with refused(UsageError, "like="):
        convert(files / "model.pt", tmp_path / "n.safetensors", to="neutral", like=linen_template())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("middle", FORMATS)
def test_undecided_layers_are_settled_after_a_stop_in_a_file(files, tmp_path, middle):
    """No module is given: the types of the Linen template settle what the neutral file left open."""
    once, twice = tmp_path / "once.msgpack", tmp_path / "twice.msgpack"
    neutral = tmp_path / f"neutral{SUFFIX[middle]}"
    like = linen_template()
    convert(files / "model.pt", once, to="flax", like=like)
    convert(files / "model.pt", neutral, to="neutral", format=middle)
    with pytest.raises(AmbiguousLayerError) as refused:
        convert(neutral, twice, to="flax")
    assert {"wte.weight", "conv.weight", "conv.bias"} <= set(refused.value.candidates)
    assert not twice.exists()
    convert(neutral, twice, to="flax", like=like)
    assert once.read_bytes() == twice.read_bytes()

    back = tmp_path / "back.pt"
    convert(neutral, back, to="torch")
    assert_same_state_dict(torch.load(back, weights_only=True), model().state_dict())


@pytest.mark.parametrize("middle", FORMATS)
@pytest.mark.parametrize("evidence", [True, False], ids=["with types", "without types"])
def test_a_neutral_file_knows_everything_that_the_state_knew(files, tmp_path, middle, evidence):
    path = tmp_path / f"neutral{SUFFIX[middle]}"
    source = model()
    neutral = to_neutral(source if evidence else source.state_dict(), "torch")
    save_state(neutral, path, format=middle)
    with open_state(path) as opened:
        assert opened.layout == "neutral"
        known = dataclasses.replace(neutral.metadata, modules={}, provenance={}, extra={})
        found = dataclasses.replace(opened.metadata, modules={}, provenance={}, extra={})
        assert dict(found.layers) == dict(known.layers)
        assert dict(found.ties) == dict(known.ties) != {}
        assert found == known
        assert set(opened) == set(neutral)
        for key in neutral:
            assert_same_bits(opened[key], neutral[key], key)
        back = from_neutral(opened, "torch", like=source)
    assert_same_state_dict(back, source.state_dict())
    assert back["lm_head.weight"].data_ptr() == back["wte.weight"].data_ptr()


@pytest.mark.parametrize("middle", FORMATS)
def test_a_flax_file_keeps_what_flax_has_no_place_for(files, tmp_path, middle):
    there, back = tmp_path / f"flax{SUFFIX[middle]}", tmp_path / "back.pt"
    report = convert(files / "model.pt", there, to="flax", format=middle, model=Model())
    assert report.exact
    with open_state(there) as opened:
        assert opened.layout == "flax"
        assert opened.metadata.auxiliary_tensors["bn", "num_batches_tracked"].array() == 12345
    convert(there, back, to="torch")
    loaded = torch.load(back, weights_only=True)
    assert set(loaded) == set(model().state_dict())
    for name, tensor in model().state_dict().items():
        assert_same_bits(loaded[name].numpy(), tensor.numpy(), name)
    assert loaded["lm_head.weight"].data_ptr() == loaded["wte.weight"].data_ptr()


def test_verify_knows_a_right_result_from_a_wrong_one(files, tmp_path):
    there = tmp_path / "model.msgpack"
    convert(files / "model.pt", there, to="flax", model=Model())
    assert verify(files / "model.pt", there, model=Model()).equal
    with open_state(there) as opened:
        changed = dict(opened)
        changed["params", "layers", "1", "bias"] = changed["params", "layers", "1", "bias"] + 1
        wrong = opened.replace(tensors={k: np.asarray(v) for k, v in changed.items()})
        save_state(wrong, tmp_path / "wrong.msgpack", format="msgpack")
    found = verify(files / "model.pt", tmp_path / "wrong.msgpack", model=Model())
    assert [difference.key for difference in found.differing] == [("params", "layers", "1", "bias")]
    assert not found.only_left
    assert not found.only_right


# -- random models ----------------------------------------------------------------------------------

size = st.integers(1, 4)


@st.composite
def layers(draw):
    a, b, k = draw(size), draw(size), draw(st.integers(1, 3))
    bias = draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                lambda: nn.Linear(a, b, bias=bias),
                lambda: nn.Embedding(a, b),
                lambda: nn.Conv1d(a, b, k, bias=bias),
                lambda: nn.Conv2d(a * b, b, (k, 2), groups=b, bias=bias),
                lambda: nn.ConvTranspose2d(a, b, (k, 2), bias=bias),
                lambda: nn.ConvTranspose1d(a * 2, b * 2, k, groups=2, bias=bias),
                lambda: nn.LayerNorm((a, b), bias=bias),
                lambda: nn.RMSNorm(a),
                lambda: nn.GroupNorm(1, a),
                lambda: nn.BatchNorm1d(a, affine=bias),
                lambda: nn.InstanceNorm1d(a, affine=bias, track_running_stats=True),
                lambda: nn.PReLU(a),
                lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(a, b, bias=bias)),
                lambda: nn.ParameterList([nn.Parameter(torch.zeros(a, b))]),
            ]
        )
    )()


NAMES = st.sampled_from(
    ["a", "layers", "conv_1", "norm", "gamma", "weight", "kernel", "scale", "0", "1", "params"]
)


@st.composite
def models(draw, depth=2):
    children = {}
    for name in draw(st.lists(NAMES, unique=True, min_size=1, max_size=3)):
        nest = depth and draw(st.booleans())
        children[name] = draw(models(depth - 1)) if nest else draw(layers())
    made = nn.Module()
    for name, child in children.items():
        made.add_module(name, child)
    for name in draw(st.lists(NAMES, unique=True, max_size=2)):
        if name not in children:
            made.register_parameter(name, nn.Parameter(torch.zeros(draw(size), draw(size))))
    return made


@given(models(), st.integers(0, 1000))
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_model_goes_to_neutral_and_back(made, seed):
    module = randomise(made, seed)
    original = module.state_dict()
    for source in (module, original):
        neutral = to_neutral(source, "torch")
        assert_same_state_dict(from_neutral(neutral, "torch", like=original), original)
        assert_same_state_dict(from_neutral(neutral, "torch", like=module), original)
        back = from_neutral(neutral, "torch")
        assert set(back) == set(original)
        assert_same_state_dict({name: back[name] for name in original}, original)


@pytest.mark.parametrize("name", ["scale", "kernel", "mean"])
@pytest.mark.parametrize("of_layer", [False, True], ids=["undecided", "decided"])
def test_an_own_parameter_with_a_neutral_name_beside_a_layer_goes_back(name, of_layer):
    module = nn.Linear(3, 4) if of_layer else nn.Module()
    if not of_layer:
        module.register_parameter("weight", nn.Parameter(torch.zeros(3, 4)))
    module.register_parameter(name, nn.Parameter(torch.zeros(2, 2)))
    original = randomise(module).state_dict()
    neutral = to_neutral(module, "torch")
    for like in (None, original, module):
        assert_same_state_dict(from_neutral(neutral, "torch", like=like), original)


@given(models(), st.integers(0, 1000))
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_model_goes_to_flax_and_back_where_it_is_not_refused(made, seed):
    module = randomise(made, seed)
    original = module.state_dict()
    plan = plan_conversion(module, to="flax", check=False)
    if not plan.ok:
        assert plan.ambiguous or plan.unexplained
        return
    state = plan.apply(to_state(module))
    assert plan.exact
    restored = plan.inverse().apply(state)
    assert_same_state_dict(from_state(restored, original), original)


def to_state(module):
    return default_registry().framework("torch").state(module)


def from_state(state, original):
    built = default_registry().framework("torch").build(state, None)
    return {name: built[name] for name in original}

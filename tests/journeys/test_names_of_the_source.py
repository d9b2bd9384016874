"""Errors and warnings of a conversion in two steps name tensors as the user's model or file does."""

import warnings

import jax
import numpy as np
import pytest
import torch
from flax import linen
from support.errors import refused

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import ConversionWarning, FlatState, Rule
from bridge_core.errors import AmbiguousLayerError, MismatchError, RuleError


class OneLayer(linen.Module):
    """A Flax model of one linear layer."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(5, name="fc")(x)


def torch_model():
    return torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 5), "extra": torch.nn.Linear(5, 6)})


def flax_template():
    return bridge_flax.template(OneLayer(), jax.ShapeDtypeStruct((1, 4), "float32"))


def flax_tree():
    layers = {"fc": (4, 5), "extra": (5, 6)}
    return {
        "params": {
            name: {"kernel": np.zeros(shape, "float32"), "bias": np.zeros(shape[1:], "float32")}
            for name, shape in layers.items()
        }
    }


def test_a_torch_tensor_without_a_target_has_its_torch_name():
    neutral = bridge_torch.to_neutral(torch_model())
    with refused(MismatchError, "extra.weight (neutral extra.kernel)", "extra.bias") as caught:
        bridge_flax.from_neutral(neutral, like=flax_template())
    assert caught.value.unexpected == ("extra.kernel", "extra.bias")
    assert "neutral extra.bias" not in str(caught.value)


def test_a_flax_tensor_without_a_target_has_its_flax_name():
    neutral = bridge_flax.to_neutral(flax_tree())
    with refused(MismatchError, "params.extra.kernel (neutral extra.kernel)"):
        bridge_torch.from_neutral(neutral, like=torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 5)}))


def test_a_file_gives_its_names_too(tmp_path):
    torch.save(torch_model().state_dict(), tmp_path / "a.pt")
    with bridge_core.open_state(tmp_path / "a.pt") as opened:
        neutral = bridge_torch.to_neutral(opened)
    with refused(MismatchError, "extra.weight (neutral extra.kernel)"):
        bridge_flax.from_neutral(neutral, like=flax_template())


@pytest.mark.parametrize("step", ["select", "rename", "union", "replace"])
def test_the_names_follow_the_tensors_of_an_edited_state(step):
    neutral = bridge_torch.to_neutral(torch_model())
    edited = {
        "select": lambda: neutral.select(lambda key: key != ("extra", "bias")),
        "rename": lambda: neutral.rename(lambda key: ("more", *key) if key[0] == "extra" else key),
        "union": lambda: neutral.select(lambda key: key[0] == "fc").union(
            neutral.select(lambda key: key[0] == "extra")
        ),
        "replace": lambda: neutral.replace(tensors=neutral.tensors()),
    }[step]()
    name = "extra.weight (neutral more.extra.kernel)" if step == "rename" else "extra.weight (neutral extra."
    with refused(MismatchError, name):
        bridge_flax.from_neutral(edited, like=flax_template())


@pytest.mark.parametrize("way", ["saved", "by hand"])
def test_where_the_source_is_not_known_the_names_are_said_to_be_neutral(way, tmp_path):
    neutral = bridge_torch.to_neutral(torch_model())
    if way == "saved":
        bridge_core.save_state(neutral, tmp_path / "neutral.npz")
        neutral = bridge_core.open_state(tmp_path / "neutral.npz")
        assert not neutral.metadata.source_names
    else:
        neutral = dict(neutral)
    with refused(MismatchError, "extra.kernel", "neutral form") as caught:
        bridge_flax.from_neutral(neutral, like=flax_template())
    assert "extra.weight" not in str(caught.value)


def test_a_tensor_that_was_added_by_hand_is_said_to_have_a_neutral_name():
    neutral = bridge_torch.to_neutral(torch_model())
    added = FlatState({("more", "kernel"): np.zeros((2, 3), "float32")}, layout="neutral")
    with refused(MismatchError, "extra.weight (neutral extra.kernel)", "more.kernel (a neutral name)"):
        bridge_flax.from_neutral(neutral.union(added), like=flax_template())


def test_layers_that_nothing_decides_have_the_names_of_the_source():
    neutral = bridge_torch.to_neutral({"a.weight": np.zeros((4, 4), "float32")})
    with refused(AmbiguousLayerError, "a.weight") as caught:
        bridge_flax.from_neutral(neutral)
    assert tuple(caught.value.candidates) == ("a.weight",)
    assert "neutral form" not in str(caught.value)


def test_one_step_names_only_the_source():
    with refused(MismatchError, "extra.weight") as caught:
        bridge_core.plan_conversion(torch_model(), to="flax", like=flax_template())
    assert "neutral" not in str(caught.value)
    with refused(MismatchError, "extra.weight (neutral extra.kernel)"):
        bridge_core.plan_conversion(bridge_torch.to_neutral(torch_model()), to="flax", like=flax_template())


@pytest.mark.parametrize("pattern", ["extra.weight", "extra.kernel"])
def test_patterns_match_the_names_that_messages_show(pattern):
    neutral = bridge_torch.to_neutral(torch_model())
    tree = bridge_flax.from_neutral(neutral, like=flax_template(), allow_unexpected=[pattern, "extra.bias"])
    assert "extra" not in tree["params"]


def test_warnings_have_the_names_of_the_source():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.LayerNorm((6, 4, 4))

    neutral = bridge_torch.to_neutral(Model())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        bridge_flax.from_neutral(neutral)
    (message,) = [str(w.message) for w in caught if issubclass(w.category, ConversionWarning)]
    assert message.startswith("norm.weight (neutral norm.scale)")
    assert 'source = "norm.scale"' in message


def test_nothing_of_it_is_written(tmp_path):
    neutral = bridge_torch.to_neutral(torch_model())
    bare = neutral.replace(metadata=neutral.metadata.with_(source_names={}))
    assert neutral.metadata == bare.metadata
    for name, state in (("a", neutral), ("b", bare)):
        bridge_core.save_state(state, tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_rule_that_does_not_fit_names_the_tensor_of_the_source():
    neutral = bridge_torch.to_neutral(torch_model())
    rule = Rule.rearrange("extra.kernel", "more.kernel", "a b c -> c b a")
    with refused(RuleError, "'extra.weight (neutral extra.kernel)'"):
        bridge_flax.from_neutral(neutral, rules=[rule])
    rules = [Rule.rearrange("extra.kernel", name) for name in ("one.kernel", "two.kernel")]
    with refused(RuleError, "'extra.weight (neutral extra.kernel)'", "'two.kernel'", hint="disjoint"):
        bridge_flax.from_neutral(neutral, rules=rules)


def test_a_plan_from_a_neutral_state_is_described_with_the_names_of_the_source():
    neutral = bridge_torch.to_neutral(torch_model())
    plan = bridge_core.plan_conversion(neutral, to="flax", like=flax_template(), check=False)
    assert "unexpected: extra.weight (neutral extra.kernel)" in plan.describe()
    assert plan.to_json()["unexpected"] == ["extra.kernel", "extra.bias"]

"""Names: own parameters stay what they are, lists and prefixes meet, ties are made and unmade knowingly."""

from __future__ import annotations

import itertools

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import assert_same_bits
from support.models import assert_same_state_dict, assert_same_tree, from_neutral, randomise, to_neutral
from torch import nn

import bridge_flax
from bridge_core import AmbiguousLayerError, MismatchError, Rule, UsageError, plan_conversion

OWN = [
    "gamma",
    "beta",
    "scale",
    "mean",
    "var",
    "covariates",
    "running_mean",
    "kernel",
    "embedding",
    "weight_g",
]


class Own(nn.Module):
    """Parameters of a user's own module, with names that layers use, too."""

    def __init__(self, names, shape=(4,)):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Parameter(torch.randn(shape)))


class OwnLinen(linen.Module):
    names: tuple
    shape: tuple = (4,)

    @linen.compact
    def __call__(self, x):
        for name in self.names:
            x = x + self.param(name, linen.initializers.ones, self.shape).sum()
        return x


class OwnNnx(nnx.Module):
    def __init__(self, names, shape=(4,)):
        for name in names:
            setattr(self, name, nnx.Param(jnp.ones(shape)))


SETS = [
    *([name] for name in OWN),
    ["gamma", "beta"],
    ["weight", "gamma"],
    ["mean", "var"],
    ["scale", "bias"],
    OWN,
]


@pytest.mark.parametrize("shape", [(4,), (4, 4), (3, 4, 4)], ids=str)
@pytest.mark.parametrize("names", SETS, ids=lambda names: "-".join(names[:3]))
def test_own_parameters_of_a_module_stay_what_they_are(names, shape):
    module = nn.ModuleDict({"mine": Own(names, shape), "fc": nn.Linear(3, 4)})
    original = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    template = {
        "params": {
            "mine": {name: jax.ShapeDtypeStruct(shape, "float32") for name in names},
            "fc": {
                "kernel": jax.ShapeDtypeStruct((3, 4), "float32"),
                "bias": jax.ShapeDtypeStruct((4,), "float32"),
            },
        }
    }
    linen_like = bridge_flax.template(OwnLinen(tuple(names), shape), jnp.zeros(()))
    nnx_like = nnx.eval_shape(lambda: OwnNnx(names, shape))
    for made in (
        from_neutral(to_neutral(module, "torch"), "flax", like=template)["params"]["mine"],
        from_neutral(to_neutral(original, "torch"), "flax", like=template)["params"]["mine"],
        from_neutral(to_neutral(module["mine"], "torch"), "flax", like=linen_like)["params"],
        nnx.to_pure_dict(nnx.state(from_neutral(to_neutral(module["mine"], "torch"), "flax", like=nnx_like))),
    ):
        assert set(made) == set(names)
        for name in names:
            assert_same_bits(np.asarray(made[name]), original[f"mine.{name}"].numpy())

    back = from_neutral(to_neutral(module, "torch"), "torch", like=module)
    assert_same_state_dict(back, original)
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch", like=original), original)


@pytest.mark.parametrize(
    "names", [["gamma"], ["covariates"], ["means"], ["variance", "mean_pool"], ["scale_by"]]
)
def test_own_parameters_need_no_template_where_no_layer_has_such_names(names):
    module = nn.ModuleDict({"mine": Own(names)})
    tree = from_neutral(to_neutral(module, "torch"), "flax")
    assert set(tree["mine"]) == set(names)
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch"), module.state_dict())


class LinenNorm(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.LayerNorm(name="norm")(x)


def test_gamma_and_beta_are_a_norm_where_the_template_says_so():
    source = {"norm.gamma": torch.randn(4), "norm.beta": torch.randn(4)}
    norm = bridge_flax.template(LinenNorm(), jnp.zeros((2, 4)))
    tree = from_neutral(to_neutral(source, "torch"), "flax", like=norm)
    assert_same_bits(np.asarray(tree["params"]["norm"]["scale"]), source["norm.gamma"].numpy())
    assert_same_bits(np.asarray(tree["params"]["norm"]["bias"]), source["norm.beta"].numpy())
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch", like=source), source)


def test_weight_and_gamma_of_one_module_do_not_replace_each_other():
    module = nn.ModuleDict({"mine": Own(["weight", "gamma"]), "other": Own(["weight", "gamma"], (4, 4))})
    neutral = to_neutral(module, "torch")
    with pytest.raises(AmbiguousLayerError) as refused:
        from_neutral(neutral, "flax")
    assert set(refused.value.candidates) == {"mine.weight", "other.weight"}
    guessed = from_neutral(neutral, "flax", accept_guesses=True)
    for name, leaves in guessed.items():
        assert_same_bits(np.asarray(leaves["gamma"]), module[name].gamma.detach().numpy())
        assert len(leaves) == 2
    assert_same_state_dict(from_neutral(neutral, "torch"), module.state_dict())


# -- lists ------------------------------------------------------------------------------------------

WIDTHS = [3, 5, 2, 7, 4, 6, 8, 3, 5, 9, 2, 4]


class TorchStack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(WIDTHS))
        self.heads = nn.ModuleList(nn.ModuleList(nn.Linear(2, 2) for _ in range(2)) for _ in range(2))


class LinenStack(linen.Module):
    def setup(self):
        self.layers = [linen.Dense(n) for n in WIDTHS[1:]]
        self.heads = [[linen.Dense(2) for _ in range(2)] for _ in range(2)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return [head(jnp.zeros((1, 2))) for row in self.heads for head in row]


class NnxStack(nnx.Module):
    def __init__(self, rngs):
        pairs = itertools.pairwise(WIDTHS)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        rows = [nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(2)]) for _ in range(2)]
        self.heads = nnx.List(rows)


def stack_templates():
    return {
        "linen": bridge_flax.template(LinenStack(), jnp.zeros((1, WIDTHS[0]))),
        "nnx": nnx.eval_shape(lambda: NnxStack(nnx.Rngs(0))),
    }


@pytest.mark.parametrize("system", ["linen", "nnx"])
def test_lists_meet_whatever_their_spelling(system):
    module = randomise(TorchStack())
    made = from_neutral(to_neutral(module, "torch"), "flax", like=stack_templates()[system])
    for i in range(len(WIDTHS) - 1):
        leaf = made["params"][f"layers_{i}"]["kernel"] if system == "linen" else made.layers[i].kernel[...]
        assert_same_bits(np.asarray(leaf), module.layers[i].weight.detach().numpy().T.copy())
    for i in range(2):
        for j in range(2):
            head = (
                made["params"][f"heads_{i}_{j}"]["kernel"]
                if system == "linen"
                else made.heads[i][j].kernel[...]
            )
            assert_same_bits(np.asarray(head), module.heads[i][j].weight.detach().numpy().T.copy())
    source = to_neutral(made, "flax", module=stack_templates()[system])
    assert_same_state_dict(from_neutral(source, "torch", like=module), module.state_dict())


def test_linen_and_nnx_lists_meet():
    module = randomise(TorchStack())
    templates = stack_templates()
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=templates["linen"])
    model = from_neutral(to_neutral(tree, "flax", module=templates["linen"]), "flax", like=templates["nnx"])
    assert_same_tree(from_neutral(to_neutral(model, "flax"), "flax", like=templates["linen"]), tree)


def test_a_name_that_only_looks_like_a_list_is_matched_as_it_is():
    source = {"conv_1.weight": torch.randn(3, 2), "conv.1.weight": torch.randn(4, 2)}
    like = {name: torch.empty_like(tensor, device="meta") for name, tensor in source.items()}
    assert_same_state_dict(from_neutral(to_neutral(source, "torch"), "torch", like=like), source)


# -- prefixes ---------------------------------------------------------------------------------------


class TorchBody(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.fc = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


class LinenBody(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Embed(5, 4, name="embed")(x)
        return linen.LayerNorm(name="norm")(linen.Dense(4, name="fc")(x))


class LinenAround(linen.Module):
    prefix: str
    head: bool = False

    def setup(self):
        setattr(self, self.prefix, LinenBody())
        if self.head:
            self.classifier = linen.Dense(3)

    def __call__(self, x):
        x = getattr(self, self.prefix)(x)
        return self.classifier(x) if self.head else x


TOKENS = jnp.zeros((1, 2), jnp.int32)
PREFIXES = ["module", "_orig_mod", "model", "bert", "model.encoder", "module._orig_mod"]


def prefixed(state_dict, prefix):
    return {f"{prefix}.{name}": tensor for name, tensor in state_dict.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_the_source_is_found_and_reported(prefix):
    body = randomise(TorchBody())
    source = prefixed(body.state_dict(), prefix)
    template = bridge_flax.template(LinenBody(), TOKENS)
    plan = plan_conversion(source, to="flax", like=template)
    assert [note for note in plan.notes if f"'{prefix}' was removed" in note]
    wanted = from_neutral(to_neutral(body, "torch"), "flax", like=template)
    tree = from_neutral(to_neutral(source, "torch"), "flax", like=template)
    assert_same_tree(tree, wanted)
    back = plan_conversion(tree, to="torch", like=source)
    assert [note for note in back.notes if f"'{prefix}' was added" in note]
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch", like=source), source)


@pytest.mark.parametrize("prefix", ["bert", "model"])
def test_a_prefix_of_the_target_is_found_and_reported(prefix):
    body = randomise(TorchBody())
    template = bridge_flax.template(LinenAround(prefix), TOKENS)
    plan = plan_conversion(body, to="flax", like=template)
    assert [note for note in plan.notes if f"'{prefix}' was added" in note]
    tree = from_neutral(to_neutral(body, "torch"), "flax", like=template)
    assert set(tree["params"]) == {prefix}
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch", like=body), body.state_dict())


def test_a_headed_checkpoint_fills_a_headless_model_when_the_head_is_allowed_to_stay():
    body = randomise(TorchBody())
    source = prefixed(body.state_dict(), "bert")
    source["classifier.weight"], source["classifier.bias"] = torch.randn(3, 4), torch.randn(3)
    template = bridge_flax.template(LinenBody(), TOKENS)
    neutral = to_neutral(source, "torch")
    with pytest.raises(MismatchError, match=r"2 source tensors .*: classifier") as refused:
        from_neutral(neutral, "flax", like=template)
    assert set(refused.value.unexpected) == {"classifier.kernel", "classifier.bias"}
    tree = from_neutral(neutral, "flax", like=template, allow_unexpected=["classifier.**"])
    assert_same_tree(tree, from_neutral(to_neutral(body, "torch"), "flax", like=template))


def test_a_headless_checkpoint_fills_a_headed_model_when_the_head_may_stay_as_it_is():
    body = randomise(TorchBody())
    model = LinenAround("bert", head=True)
    like = model.init(jax.random.key(0), TOKENS)
    neutral = to_neutral(body, "torch")
    with pytest.raises(MismatchError, match=r"2 target tensors .*: params\.classifier") as refused:
        from_neutral(neutral, "flax", like=like)
    assert set(refused.value.missing) == {"params.classifier.kernel", "params.classifier.bias"}
    tree = from_neutral(neutral, "flax", like=like, allow_missing=["classifier.**"])
    for name, leaf in like["params"]["classifier"].items():
        assert_same_bits(np.asarray(tree["params"]["classifier"][name]), np.asarray(leaf))
    assert_same_bits(np.asarray(tree["params"]["bert"]["fc"]["bias"]), body.fc.bias.detach().numpy())


def test_a_prefix_and_a_list_meet_together():
    module = randomise(TorchStack())
    source = prefixed(module.state_dict(), "_orig_mod.model")
    template = stack_templates()["linen"]
    tree = from_neutral(to_neutral(source, "torch"), "flax", like=template)
    assert_same_tree(tree, from_neutral(to_neutral(module, "torch"), "flax", like=template))
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch", like=source), source)


@pytest.mark.parametrize("other", ["model", "ema"])
def test_a_second_copy_under_another_prefix_is_never_taken_for_the_first(other):
    body = randomise(TorchBody())
    source = {**body.state_dict(), **prefixed(randomise(TorchBody(), seed=9).state_dict(), other)}
    template = bridge_flax.template(LinenBody(), TOKENS)
    with pytest.raises(MismatchError, match="5 source tensors"):
        from_neutral(to_neutral(source, "torch"), "flax", like=template)
    tree = from_neutral(to_neutral(source, "torch"), "flax", like=template, allow_unexpected=[f"{other}.**"])
    assert_same_tree(tree, from_neutral(to_neutral(body, "torch"), "flax", like=template))


def test_two_copies_under_prefixes_are_refused_until_one_is_left_out():
    first, second = randomise(TorchBody()), randomise(TorchBody(), seed=9)
    source = {**prefixed(first.state_dict(), "model"), **prefixed(second.state_dict(), "ema")}
    template = bridge_flax.template(LinenBody(), TOKENS)
    with pytest.raises(MismatchError):
        from_neutral(to_neutral(source, "torch"), "flax", like=template)
    for kept, left_out in (("model", "ema"), ("ema", "model")):
        rules = [Rule.drop(f"{left_out}.**", "another copy")]
        tree = from_neutral(to_neutral(source, "torch", rules=rules), "flax", like=template)
        wanted = first if kept == "model" else second
        assert_same_tree(tree, from_neutral(to_neutral(wanted, "torch"), "flax", like=template))


def test_a_module_with_another_prefix_is_evidence():
    body = randomise(TorchBody())
    source = prefixed(body.state_dict(), "module")
    neutral = to_neutral(source, "torch", module=body)
    assert {info.evidence for info in neutral.metadata.layers.values()} == {"module"}
    assert neutral.metadata.layers["module", "embed"].kind == "embedding"


def test_missing_and_unexpected_names_are_all_listed_at_once():
    body = randomise(TorchBody())
    source = {**body.state_dict(), "extra.table": torch.randn(2), "more": torch.randn(1)}
    del source["norm.bias"], source["fc.bias"]
    template = bridge_flax.template(LinenBody(), TOKENS)
    with pytest.raises(MismatchError) as refused:
        from_neutral(to_neutral(source, "torch", module=body), "flax", like=template)
    assert set(refused.value.missing) == {"params.norm.bias", "params.fc.bias"}
    assert set(refused.value.unexpected) == {"extra.table", "more"}


# -- wrong arguments --------------------------------------------------------------------------------


def test_the_wrong_kind_of_object_is_named():
    module = randomise(TorchBody())
    with pytest.raises(UsageError, match=r"expected flax weights.*torch"):
        to_neutral(module, "flax")
    with pytest.raises(UsageError, match=r"expected torch weights.*flax"):
        to_neutral(from_neutral(to_neutral(module, "torch"), "flax"), "torch")
    with pytest.raises(UsageError, match=r"template.*'flax'.*'torch'"):
        from_neutral(to_neutral(module, "torch"), "flax", like=module)
    with pytest.raises(UsageError, match="'torch'"):
        from_neutral(bridge_flax.FlaxFramework().state({}).replace(layout="torch"), "flax")

"""Attention in torch, Linen and NNX: fused or separate projections there, heads as an axis here."""

from __future__ import annotations

import dataclasses
from functools import cache, partial

import flax.linen as linen
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import assert_same_bits
from support.converting import (
    abstract,
    assert_from_flax_and_back,
    assert_from_torch_and_back,
    random_nnx,
    respelt,
    run,
    spec,
)
from support.errors import OutputsDiffer
from support.loading import assert_same_tensors
from support.models import (
    assert_same_output,
    assert_same_state_dict,
    assert_same_tree,
    from_neutral,
    leaves_of,
    random_tree,
    randomise,
    to_neutral,
)
from torch import nn

import bridge_core
import bridge_flax
from bridge_core import BridgeError, default_registry


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer: the model's width, its heads, what keys and values are made of, and whether biases stand."""

    features: int = 12
    heads: int = 3
    key: int | None = None
    value: int | None = None
    bias: bool = True

    def __str__(self):
        parts = [f"{self.features}/{self.heads}"]
        parts += [f"kdim{self.key}"] if self.key else []
        parts += [f"vdim{self.value}"] if self.value else []
        return "-".join(parts if self.bias else [*parts, "no_bias"])

    @property
    def widths(self):
        return (self.features, self.key or self.features, self.value or self.features)

    def inputs(self, seed=1):
        """Queries, keys, values, and a mask of what each query may see: something always, all never."""
        rng = np.random.default_rng(seed)
        queries, keys, values = (
            rng.standard_normal((2, length, width)).astype(np.float32)
            for length, width in zip((5, 8, 8), self.widths, strict=True)
        )
        mask = rng.random((2, 1, 5, 8)) < 0.6
        mask[..., 0] = True
        mask[..., -1] = False
        return queries, keys, values, mask


class TorchNet(nn.Module):
    def __init__(self, case, **options):
        super().__init__()
        self.heads = case.heads
        self.attn = nn.MultiheadAttention(
            case.features,
            case.heads,
            bias=case.bias,
            kdim=case.key,
            vdim=case.value,
            batch_first=True,
            **options,
        )

    def forward(self, queries, keys, values, mask):
        hidden = ~mask.expand(-1, self.heads, -1, -1).flatten(0, 1)
        return self.attn(queries, keys, values, attn_mask=hidden, need_weights=False)[0]


class LinenNet(linen.Module):
    case: Case
    layer: type = linen.MultiHeadDotProductAttention

    def setup(self):
        self.attn = self.layer(
            num_heads=self.case.heads,
            qkv_features=self.case.features,
            out_features=self.case.features,
            use_bias=self.case.bias,
        )

    def __call__(self, queries, keys, values, mask):
        return self.attn(queries, keys, values, mask=mask)


class NnxNet(nnx.Module):
    def __init__(self, case, rngs, **options):
        self.attn = nnx.MultiHeadAttention(
            num_heads=case.heads,
            in_features=case.features,
            in_kv_features=case.key or case.features,
            use_bias=case.bias,
            decode=False,
            rngs=rngs,
            **options,
        )

    def __call__(self, queries, keys, values, mask):
        return self.attn(queries, keys, values, mask=mask)


@cache
def linen_template(case, model=None):
    queries, keys, values, mask = case.inputs()
    model = model or LinenNet(case)
    return bridge_flax.template(model, *(spec(*x.shape) for x in (queries, keys, values)), mask)


CASES = [
    Case(bias=bias, **options)
    for bias in (True, False)
    for options in (
        {},
        {"heads": 1},
        {"features": 4, "heads": 4},
        {"features": 9, "heads": 3},
        {"key": 7, "value": 7},
        {"key": 5, "value": 7},
    )
]
of_linen = pytest.mark.parametrize("case", CASES, ids=str)
of_nnx = pytest.mark.parametrize("case", [c for c in CASES if c.key == c.value], ids=str)


@of_linen
def test_torch_to_linen_and_back(case):
    module = randomise(TorchNet(case))
    assert_from_torch_and_back(module, linen_template(case), LinenNet(case), *case.inputs())


@pytest.mark.slow
@of_nnx
def test_torch_to_nnx_and_back(case):
    module = randomise(TorchNet(case))
    assert_from_torch_and_back(module, abstract(partial(NnxNet, case)), None, *case.inputs())


@of_linen
def test_linen_to_torch_and_back(case):
    template = linen_template(case)
    variables = random_tree(template.tree)
    assert_from_flax_and_back(variables, template, LinenNet(case), TorchNet(case), *case.inputs())


@pytest.mark.slow
@of_nnx
def test_nnx_to_torch_and_back(case):
    make = partial(NnxNet, case)
    assert_from_flax_and_back(random_nnx(make), abstract(make), None, TorchNet(case), *case.inputs())


@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
@pytest.mark.parametrize("layer", [linen.MultiHeadAttention, linen.SelfAttention])
def test_the_other_names_of_linens_attention(layer):
    class Net(linen.Module):
        def setup(self):
            self.attn = layer(num_heads=3)

        def __call__(self, x):
            return self.attn(x)

    x = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)
    module = randomise(nn.ModuleDict({"attn": nn.MultiheadAttention(12, 3, batch_first=True)}))
    template = bridge_flax.template(Net(), spec(*x.shape))
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    with torch.no_grad():
        wanted = module["attn"].eval()(*[torch.from_numpy(x)] * 3)[0].numpy()
    assert_same_output(run(Net(), tree, x), wanted)
    back = from_neutral(to_neutral(tree, "flax", module=template), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())


# -- without a template -----------------------------------------------------------------------------


@of_linen
def test_a_live_module_knows_its_heads(case):
    """Then no template is needed, neither there nor back."""
    module = randomise(TorchNet(case))
    neutral = to_neutral(module, "torch")
    plain = from_neutral(neutral, "flax")
    templated = from_neutral(neutral, "flax", like=linen_template(case))
    assert {k: v.tobytes() for k, v in leaves_of({"params": plain}).items()} == {
        k: v.tobytes() for k, v in leaves_of(templated).items()
    }
    back = from_neutral(to_neutral(plain, "flax"), "torch")
    wanted = module.state_dict()
    assert back.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert_same_bits(back[name].numpy(), tensor.numpy(), name)


def test_a_state_dict_does_not_know_its_heads():
    """Any number that divides the width would fit: nothing is guessed."""
    module = randomise(TorchNet(Case()))
    neutral = to_neutral(module.state_dict(), "torch")
    assert neutral.metadata.layers["attn",].kind == "attention"
    with pytest.raises(BridgeError, match="attn"):
        from_neutral(neutral, "flax")


def test_another_number_of_heads_is_refused():
    """The same shapes taken apart into other heads would compute something else."""
    module = randomise(TorchNet(Case(heads=3)))
    for like in (linen_template(Case(heads=4)), abstract(partial(NnxNet, Case(heads=4)))):
        with pytest.raises(BridgeError, match="attn"):
            from_neutral(to_neutral(module, "torch"), "flax", like=like)
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=linen_template(Case(heads=3)))
    with pytest.raises(BridgeError, match="attn"):
        from_neutral(to_neutral(tree, "flax"), "torch", like=TorchNet(Case(heads=4)))


@pytest.mark.parametrize("case", [Case(), Case(key=5, value=7)], ids=str)
def test_the_neutral_form_names_every_projection(case):
    module = randomise(TorchNet(case))
    neutral = to_neutral(module, "torch")
    weights = {name: tensor.detach().numpy() for name, tensor in module.attn.named_parameters()}
    fused = "in_proj_weight" in weights
    kernels = (
        np.split(weights["in_proj_weight"], 3) if fused else [weights[f"{x}_proj_weight"] for x in "qkv"]
    )
    for part, kernel, bias in zip(
        ("query", "key", "value"), kernels, np.split(weights["in_proj_bias"], 3), strict=True
    ):
        assert_same_bits(neutral["attn", part, "kernel"], kernel.T)
        assert_same_bits(neutral["attn", part, "bias"], bias)
    assert_same_bits(neutral["attn", "out", "kernel"], weights["out_proj.weight"].T)
    assert_same_bits(neutral["attn", "out", "bias"], weights["out_proj.bias"])


# -- through files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".msgpack", ".safetensors"])
@pytest.mark.parametrize("case", [Case(), Case(key=5, value=7, bias=False)], ids=str)
def test_through_files_and_back(tmp_path, case, suffix):
    module = randomise(TorchNet(case))
    source, flax, back = tmp_path / "a.pt", tmp_path / f"b{suffix}", tmp_path / "c.pt"
    torch.save(module.state_dict(), source)
    bridge_core.convert(source, flax, to="flax", like=linen_template(case))
    with bridge_core.open_state(flax) as state:
        key = next(key for key in state if key[-3:] == ("attn", "query", "kernel"))
        assert state.spec(key).shape == (case.features, case.heads, case.features // case.heads)
    bridge_core.convert(flax, back, to="torch")
    assert_same_tensors(torch.load(back, weights_only=True), module.state_dict())


# -- what one side lacks ----------------------------------------------------------------------------


def test_biases_that_the_source_lacks_are_zeros():
    case = Case()
    module = randomise(TorchNet(dataclasses.replace(case, bias=False)))
    for like, model in ((linen_template(case), LinenNet(case)), (abstract(partial(NnxNet, case)), None)):
        made = from_neutral(to_neutral(module, "torch"), "flax", like=like)
        biases = [value for name, value in leaves_of(made).items() if "bias" in name]
        assert len(biases) == 4
        assert not any(value.any() for value in biases)
        given = (made, None) if model is None else (model, made)
        assert_same_output(run(*given, *case.inputs()), run(module, None, *case.inputs()))


def test_biases_that_the_source_lacks_are_zeros_in_torch():
    case = Case()
    template = linen_template(dataclasses.replace(case, bias=False))
    variables = random_tree(template.tree)
    made = from_neutral(to_neutral(variables, "flax"), "torch", like=TorchNet(case))
    assert not made["attn.in_proj_bias"].any()
    assert not made["attn.out_proj.bias"].any()


def test_biases_that_the_target_lacks_are_not_left_out():
    case = Case()
    module = randomise(TorchNet(case))
    with pytest.raises(BridgeError, match="bias"):
        from_neutral(
            to_neutral(module, "torch"), "flax", like=linen_template(dataclasses.replace(case, bias=False))
        )


@pytest.mark.parametrize("case", [Case(), Case(bias=False), Case(key=5, value=7)], ids=str)
def test_learned_keys_and_values_return_to_torch_and_are_refused_by_flax(case):
    module = randomise(TorchNet(case, add_bias_kv=True))
    for value in (module, module.state_dict()):
        neutral = to_neutral(value, "torch")
        assert_same_state_dict(from_neutral(neutral, "torch", like=module), module.state_dict())
        back = from_neutral(neutral, "torch")
        assert back.keys() == module.state_dict().keys()
        for like in (None, linen_template(case)):
            with pytest.raises(BridgeError, match="add_bias_kv"):
                from_neutral(neutral, "flax", like=like)


def test_normalised_queries_and_keys_have_no_place_in_torch():
    case = Case()
    model = random_nnx(partial(NnxNet, case, normalize_qk=True))
    with pytest.raises(BridgeError, match="query_ln"):
        from_neutral(to_neutral(model, "flax"), "torch", like=TorchNet(case))


# -- other compositions -----------------------------------------------------------------------------


class Separate(nn.Module):
    """Attention with fewer heads of keys and values, of plain linear layers."""

    def __init__(self, heads=4, kv_heads=2, size=3, features=12, bias=True):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.attn = nn.Module()
        self.attn.query = nn.Linear(features, heads * size, bias=bias)
        self.attn.key = nn.Linear(features, kv_heads * size, bias=bias)
        self.attn.value = nn.Linear(features, kv_heads * size, bias=bias)
        self.attn.out = nn.Linear(heads * size, features, bias=bias)

    def forward(self, queries, keys, values, mask):
        q, k, v = (
            layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, x, heads in (
                (self.attn.query, queries, self.heads),
                (self.attn.key, keys, self.kv_heads),
                (self.attn.value, values, self.kv_heads),
            )
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.attn.out(mixed.transpose(1, 2).flatten(-2))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_meet_plain_linear_layers(kv_heads, bias):
    """The layer falls apart into its projections where torch has them one by one."""
    case = Case(heads=4, bias=bias)
    make = partial(NnxNet, case, num_kv_heads=kv_heads, qkv_features=12)
    module = randomise(Separate(4, kv_heads, 3, bias=bias))
    assert_from_torch_and_back(module, abstract(make), None, *case.inputs())
    assert_from_flax_and_back(
        random_nnx(make, 3), abstract(make), None, Separate(4, kv_heads, 3, bias=bias), *case.inputs()
    )


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads_do_not_fit_torchs_attention(kv_heads):
    case = Case(heads=4)
    model = random_nnx(partial(NnxNet, case, num_kv_heads=kv_heads))
    with pytest.raises(BridgeError, match="attn"):
        from_neutral(to_neutral(model, "flax"), "torch", like=TorchNet(case))
    like = abstract(partial(NnxNet, case, num_kv_heads=kv_heads))
    with pytest.raises(BridgeError, match="attn"):
        from_neutral(to_neutral(TorchNet(case), "torch"), "flax", like=like)


def test_torchs_two_spellings_meet():
    """Separate projections of one width are the fused one's parts."""
    case = Case()
    module = randomise(TorchNet(case))
    other = TorchNet(dataclasses.replace(case, key=11))  # torch fuses where all widths are one
    other.attn.k_proj_weight = nn.Parameter(torch.zeros(12, 12))
    other.load_state_dict(from_neutral(to_neutral(module, "torch"), "torch", like=other))
    parts = [getattr(other.attn, f"{x}_proj_weight") for x in "qkv"]
    assert torch.equal(torch.cat([p.detach() for p in parts]), module.attn.in_proj_weight.detach())
    back = from_neutral(to_neutral(other, "torch"), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())


# -- controls ---------------------------------------------------------------------------------------

FUSED = "torch.multihead_attention"
SWAPS = {
    "queries and keys": {
        "in_proj_weight": {
            "role": ("key.kernel", "query.kernel", "value.kernel"),
            "axes": "(kv_heads heads kv_heads) in",
        }
    },
    "keys and values": {"in_proj_weight": {"role": ("query.kernel", "value.kernel", "key.kernel")}},
    "biases of keys and values": {"in_proj_bias": {"role": ("query.bias", "value.bias", "key.bias")}},
    "the output not transposed": {"out_proj__weight": {"axes": "heads out"}},
    "heads in reverse": {"out_proj__weight": {"flip": ("heads",)}},
}


@pytest.mark.parametrize("changes", SWAPS.values(), ids=SWAPS)
def test_a_swapped_rule_is_noticed(changes):
    case = Case()
    module = randomise(TorchNet(case))
    wanted = run(module, None, *case.inputs())
    like = abstract(partial(NnxNet, case))
    wrong = respelt(default_registry(), FUSED, **changes)
    right = from_neutral(
        to_neutral(module, "torch", default_registry()), "flax", default_registry(), like=like
    )
    assert_same_output(run(right, None, *case.inputs()), wanted)
    made = from_neutral(to_neutral(module, "torch", wrong), "flax", wrong, like=like)
    with pytest.raises(OutputsDiffer):
        assert_same_output(run(made, None, *case.inputs()), wanted)


def test_heads_taken_for_features_of_heads_are_noticed():
    """Interleaved heads have the same shapes."""
    case = Case(features=9, heads=3)
    module = randomise(TorchNet(case))
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=linen_template(case))
    kernel = tree["params"]["attn"]["query"]["kernel"]
    tree["params"]["attn"]["query"]["kernel"] = kernel.swapaxes(1, 2)
    with pytest.raises(OutputsDiffer):
        assert_same_output(run(LinenNet(case), tree, *case.inputs()), run(module, None, *case.inputs()))


def test_equal_trees_are_told_from_unequal_ones():
    """The comparison behind every round trip above can fail."""
    template = linen_template(Case())
    with pytest.raises(AssertionError):
        assert_same_tree(random_tree(template.tree, 0), random_tree(template.tree, 1))

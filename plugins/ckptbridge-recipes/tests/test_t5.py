"""T5 and UMT5 of transformers and T5X: names by hand, and the same outputs."""

import jax
import numpy as np
import orbax.checkpoint as orbax
import pytest
import torch
import transformers
from flax.traverse_util import unflatten_dict
from support.errors import refused
from support.flax_t5 import LinenT5, T5Sizes
from support.rule_proofs import (
    RECIPES,
    arrays,
    assert_same_outputs,
    assert_same_tree,
    changed,
    randomised,
    run_linen,
    saved_tree,
    stored,
    stored_tree,
    torch_file,
)

from bridge_core import PlanError, convert
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

SIZES = {
    "t5-t5x": T5Sizes(40, 24, 5, 28, encoder=3, decoder=2, heads=4, gated=False, tied=True, scan=False),
    "t5-v1-1-t5x": T5Sizes(41, 24, 7, 26, encoder=2, decoder=3, heads=5, gated=True, tied=False, scan=False),
    "umt5-t5x": T5Sizes(39, 22, 6, 27, encoder=2, decoder=4, heads=3, gated=True, tied=False, scan=True),
    "t5-v1-1-t5x-scanned": T5Sizes(
        40, 24, 7, 28, encoder=3, decoder=2, heads=5, gated=True, tied=False, scan=True
    ),
}
PROJECTIONS = {"q": "query", "k": "key", "v": "value"}
BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


def model(name):
    """Return transformers' model, all its weights random."""
    sizes = SIZES[name]
    config, model = (
        (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration)
        if name.startswith("umt5")
        else (transformers.T5Config, transformers.T5ForConditionalGeneration)
    )
    return randomised(
        model(
            config(
                vocab_size=sizes.vocabulary,
                d_model=sizes.width,
                d_kv=sizes.depth,
                d_ff=sizes.hidden,
                num_layers=sizes.encoder,
                num_decoder_layers=sizes.decoder,
                num_heads=sizes.heads,
                feed_forward_proj="gated-gelu" if sizes.gated else "relu",
                tie_word_embeddings=sizes.tied,
            )
        )
    )


def by_hand(weights, name):
    """Return T5X's tree, made name by name."""
    sizes = SIZES[name]
    tree = {
        "token_embedder/embedding": weights["shared.weight"],
        "encoder/encoder_norm/scale": weights["encoder.final_layer_norm.weight"],
        "decoder/decoder_norm/scale": weights["decoder.final_layer_norm.weight"],
    }
    if not sizes.tied:
        tree["decoder/logits_dense/kernel"] = weights["lm_head.weight"].T
    layers = {"encoder": [], "decoder": []}
    for stack, number in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
        for n in range(number):
            layers[stack].append(layer_by_hand(weights, f"{stack}.block.{n}", stack, sizes))
        if not sizes.scan:
            tree[f"{stack}/relpos_bias/rel_embedding"] = weights[f"{stack}.block.0.{BIAS}"].T
            for n, layer in enumerate(layers[stack]):
                tree |= {f"{stack}/layers_{n}/{leaf}": value for leaf, value in layer.items()}
        else:
            for n, layer in enumerate(layers[stack]):
                own = n if name.startswith("umt5") else 0
                layer["relpos_bias/rel_embedding"] = weights[f"{stack}.block.{own}.{BIAS}"].T
            for leaf in layers[stack][0]:
                stacked = np.stack([layer[leaf] for layer in layers[stack]], axis=1)
                tree[f"{stack}/{stack}/{leaf}"] = stacked
    return {leaf: np.ascontiguousarray(value) for leaf, value in tree.items()}


def layer_by_hand(weights, block, stack, sizes):
    encoder = stack == "encoder"
    layer = {}
    attentions = {"0.SelfAttention": "attention" if encoder else "self_attention"}
    norms = {0: "pre_attention_layer_norm", 1: "pre_mlp_layer_norm"}
    if not encoder:
        attentions["1.EncDecAttention"] = "encoder_decoder_attention"
        norms = {0: "pre_self_attention_layer_norm", 1: "pre_cross_attention_layer_norm"}
        norms[2] = "pre_mlp_layer_norm"
    for old, new in attentions.items():
        for letter, word in PROJECTIONS.items():
            kernel = weights[f"{block}.layer.{old}.{letter}.weight"].T
            if sizes.scan:
                kernel = kernel.reshape(sizes.width, sizes.heads, sizes.depth)
            layer[f"{new}/{word}/kernel"] = kernel
        out = weights[f"{block}.layer.{old}.o.weight"].T
        if sizes.scan:
            out = out.reshape(sizes.heads, sizes.depth, sizes.width)
        layer[f"{new}/out/kernel"] = out
    mlp = f"{block}.layer.{1 if encoder else 2}.DenseReluDense"
    for part in ("wi_0", "wi_1", "wo") if sizes.gated else ("wi", "wo"):
        layer[f"mlp/{part}/kernel"] = weights[f"{mlp}.{part}.weight"].T
    for number, norm in norms.items():
        layer[f"{norm}/scale"] = weights[f"{block}.layer.{number}.layer_norm.weight"]
    return layer


def without_copies(weights, name):
    """What a file written without a template holds."""
    copies = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    copies |= {"lm_head.weight"} if SIZES[name].tied else set()
    return {key: value for key, value in weights.items() if key not in copies}


def sample(name):
    torch_model = model(name)
    weights = without_copies(arrays(torch_model), name)
    config = torch_model.config.to_diff_dict()
    sizes = {"head": SIZES[name].heads} if SIZES[name].scan else {}
    if name == "t5-v1-1-t5x-scanned":
        sizes |= {"encoder_layers": SIZES[name].encoder, "decoder_layers": SIZES[name].decoder}
    yield RecipeSample(
        source=weights, target=by_hand(weights, name), source_config=config, sizes=sizes, name=name
    )


class TestT5(RecipeContract):
    recipe = load_recipe(RECIPES / "t5-t5x.toml")

    def samples(self):
        yield from sample("t5-t5x")


class TestT5Gated(RecipeContract):
    recipe = load_recipe(RECIPES / "t5-v1-1-t5x.toml")

    def samples(self):
        yield from sample("t5-v1-1-t5x")


class TestT5Scanned(RecipeContract):
    recipe = load_recipe(RECIPES / "t5-v1-1-t5x-scanned.toml")

    def samples(self):
        yield from sample("t5-v1-1-t5x-scanned")


class TestUMT5(RecipeContract):
    recipe = load_recipe(RECIPES / "umt5-t5x.toml")

    def samples(self):
        yield from sample("umt5-t5x")


def tokens(sizes):
    generator = np.random.default_rng(0)
    return [generator.integers(1, sizes.vocabulary, (2, length)) for length in (45, 38)]


def outputs(model, sizes):
    read, written = map(torch.from_numpy, tokens(sizes))
    with torch.no_grad():
        return model(input_ids=read, decoder_input_ids=written).logits


every_recipe = pytest.mark.parametrize("name", SIZES)


def rules(name):
    return RECIPES / f"{name}.toml"


@pytest.fixture
def there(tmp_path):
    """Returns a function that converts a model of transformers, and gives the tree."""

    def there(torch_model, name, file=None):
        source = torch_file(
            without_copies(arrays(torch_model), name),
            tmp_path / name / "model.safetensors",
            torch_model.config.to_diff_dict(),
        )
        convert(source, tmp_path / "flax.msgpack", to="flax", rules=file or rules(name))
        return stored_tree(tmp_path / "flax.msgpack")

    return there


@pytest.mark.slow
@every_recipe
def test_the_outputs_are_those_of_torch(name, there):
    torch_model = model(name)
    in_flax = there(torch_model, name)
    found = run_linen(LinenT5(SIZES[name]), in_flax, *tokens(SIZES[name]))
    assert_same_outputs(found, outputs(torch_model, SIZES[name]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("t5-t5x", 'q = "query", k = "key"', 'q = "key", k = "query"'),
        ("umt5-t5x", 'wi = ["wi_0", "wi_1"]', 'wi = { wi_0 = "wi_1", wi_1 = "wi_0" }'),
    ],
)
def test_a_wrong_rule_gives_other_outputs(name, right, wrong, there, tmp_path):
    torch_model = model(name)
    broken = changed(rules(name), right, wrong, tmp_path)
    in_flax = there(torch_model, name, broken)
    assert {leaf: value.shape for leaf, value in in_flax.items()} == {
        f"params/{leaf}": value.shape for leaf, value in by_hand(arrays(torch_model), name).items()
    }
    with pytest.raises(AssertionError):
        assert_same_outputs(
            run_linen(LinenT5(SIZES[name]), in_flax, *tokens(SIZES[name])), outputs(torch_model, SIZES[name])
        )


@pytest.mark.slow
@every_recipe
def test_copies_of_the_embedding_are_read_and_written(name, tmp_path):
    """Files of older releases store all of them; safetensors' own folders store one."""
    torch_model = model(name)
    weights = arrays(torch_model)
    config = torch_model.config.to_diff_dict()
    source = torch_file(weights, tmp_path / "all" / "model.safetensors", config)
    in_flax, back = tmp_path / "flax.msgpack", tmp_path / "back.safetensors"
    convert(source, in_flax, to="flax", rules=rules(name))
    assert_same_tree(
        stored_tree(in_flax), {f"params/{leaf}": value for leaf, value in by_hand(weights, name).items()}
    )
    convert(in_flax, back, to="torch", rules=rules(name), like=source)
    assert_same_tree(stored(back), weights)

    other = {**weights, "encoder.embed_tokens.weight": weights["shared.weight"] + 1}
    source = torch_file(other, tmp_path / "other" / "model.safetensors", config)
    with refused(PlanError, "token_embedder.embedding"):
        convert(source, tmp_path / "other.msgpack", to="flax", rules=rules(name))


@pytest.mark.slow
@every_recipe
def test_transformers_loads_what_is_made_of_a_training_run(name, tmp_path):
    """T5X saves weights below ``target``, next to the optimizer's values of the same names."""
    torch_model = model(name)
    weights = without_copies(arrays(torch_model), name)
    target = unflatten_dict(by_hand(weights, name), sep="/")
    slots = jax.tree.map(lambda value: {"m": np.zeros(1, np.float32), "v": value * value}, target)
    run = {"target": target, "state": {"step": np.int32(7), "param_states": slots}}
    folder = tmp_path / "checkpoint_7"
    with orbax.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder, run)
    folder_of_torch = tmp_path / "torch"
    torch_model.config.save_pretrained(folder_of_torch)
    made = folder_of_torch / "model.safetensors"
    convert(folder, made, to="torch", layout="flax", rules=rules(name))
    assert_same_tree(stored(made), weights)

    loaded = type(torch_model).from_pretrained(folder_of_torch)
    assert torch.equal(outputs(loaded, SIZES[name]), outputs(torch_model, SIZES[name]))


@pytest.mark.slow
def test_a_bias_of_each_layer_is_not_one_for_all(tmp_path):
    name = "t5-v1-1-t5x-scanned"
    tree = by_hand(arrays(model(name)), name)
    tree["encoder/encoder/relpos_bias/rel_embedding"][0, 1, 0] += 1
    source = saved_tree(tree, tmp_path / "flax.msgpack")
    with refused(PlanError, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"):
        convert(source, tmp_path / "torch.safetensors", to="torch", rules=rules(name))
    convert(source, tmp_path / "torch.safetensors", to="torch", rules=rules("umt5-t5x"))

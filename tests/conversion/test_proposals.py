"""Where missing and unexpected names pair in one way only, a refusal ends with the rules that are right."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from bridge_core import MismatchError, open_state, plan_conversion
from bridge_core.cli.app import main
from bridge_core.state import FlatState, join_key

LAYERS = 12


def values(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def linear(path, out, into, bias=True):
    return {f"{path}.weight": (out, into), **({f"{path}.bias": (out,)} if bias else {})}


def norm(path, width):
    return {f"{path}.weight": (width,), f"{path}.bias": (width,)}


def conv(path, out, into, k=3):
    return {f"{path}.weight": (out, into, k, k), f"{path}.bias": (out,)}


def as_flax(weights, rename):
    """The same weights under Flax's names, axes and a new path for each layer."""
    tree = {}
    for name, value in weights.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "weight" and path.endswith("embed_tokens"):
            leaf = "embedding"
        elif leaf == "weight":
            turned = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
            leaf, value = "kernel" if value.ndim > 1 else "scale", value.transpose(turned)
        tree[f"{rename(path)}.{leaf}"] = np.ascontiguousarray(value)
    return tree


def replaced(*pairs):
    def rename(path):
        for old, new in pairs:
            path = path.replace(old, new)
        return path

    return rename


def encoder():
    shapes = {"encoder.embed_tokens.weight": (50, 24), **norm("encoder.final", 24), **linear("head", 7, 24)}
    for i in range(LAYERS):
        block = f"encoder.layers.{i}"
        shapes |= linear(f"{block}.mlp.up", 96, 24) | linear(f"{block}.mlp.down", 24, 96)
        shapes |= linear(f"{block}.attn.qkv", 72, 24) | norm(f"{block}.ln", 24)
    return shapes


def cnn():
    shapes = {**conv("stem.conv", 8, 3), **norm("stem.norm", 8), **linear("fc", 10, 32)}
    for stage, width in enumerate((16, 32), 1):
        shapes |= conv(f"layer{stage}.conv", width, width // 2) | norm(f"layer{stage}.norm", width)
    return shapes


MODELS = {
    "a layer": (encoder(), replaced(("encoder.final", "encoder.norm_f"))),
    "a container of all": (encoder(), replaced(("encoder.", "body."), ("layers.", "blocks."))),
    "one more level": (encoder(), replaced(("encoder.final", "encoder.final.norm"))),
    "one level less": (encoder(), replaced((".mlp", ""), ("attn.qkv", "qkv"))),
    "leaves of blocks": (encoder(), replaced(("mlp.up", "mlp.fc_in"), ("mlp.down", "mlp.fc_out"))),
    "blocks and their layers": (
        encoder(),
        replaced(("layers.", "h_"), ("mlp.up", "ff.wi"), ("mlp.down", "ff.wo")),
    ),
    "a square matrix": ({**cnn(), **linear("proj", 24, 24)}, replaced(("proj", "dense"))),
    "another place": (encoder(), replaced(("encoder.final", "top.final_norm"))),
    "stages": (cnn(), replaced(("layer1", "stage_0"), ("layer2", "stage_1"))),
    "a prefix as well": (encoder(), lambda path: "bert." + path.replace("mlp.up", "mlp.wi")),
    "everything": (cnn(), replaced(("stem", "in"), ("conv", "convolution"), ("norm", "ln"), ("fc", "out"))),
}


def state_of(weights, layout):
    return FlatState({tuple(name.split(".")): value for name, value in weights.items()}, layout=layout)


def refusal(source, target, layout, towards):
    plan = plan_conversion(state_of(source, layout), to=towards, like=state_of(target, towards), check=False)
    with pytest.raises(MismatchError) as caught:
        plan.check()
    assert caught.value.proposed_rules == plan.to_json().get("proposed_rules", "")
    return caught.value


def assert_right_with(rules, source, target, layout, towards):
    plan = plan_conversion(state_of(source, layout), to=towards, like=state_of(target, towards), rules=rules)
    written = plan.apply(state_of(source, layout))
    assert set(map(join_key, written)) == set(target)
    for key in written:
        np.testing.assert_array_equal(written[key], target[join_key(key)])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", ["torch", "flax"])
def test_with_the_proposed_rules_a_conversion_is_complete_and_right_both_ways(name, layout, tmp_path):
    shapes, rename = MODELS[name]
    torch_side = values(shapes)
    sides = [torch_side, as_flax(torch_side, rename)]
    layouts = ["torch", "flax"]
    if layout == "flax":
        sides.reverse()
        layouts.reverse()
    error = refusal(*sides, *layouts)
    assert str(error).endswith(error.proposed_rules)
    path = tmp_path / "rules.toml"
    path.write_text(error.proposed_rules)
    assert_right_with(path, *sides, *layouts)
    assert_right_with(path, *reversed(sides), *reversed(layouts))


PROJECTIONS = ("q", "k", "v", "out")

NOT_UNIQUE = {
    "four of one shape": (
        {n: s for p in PROJECTIONS for n, s in linear(f"attn.{p}", 24, 12).items()},
        replaced((".q", ".query"), (".k", ".key"), (".v", ".value"), (".out", ".proj")),
    ),
    "two norms": (
        {**norm("block.ln_a", 24), **norm("block.ln_b", 24)},
        replaced(("ln_a", "pre"), ("ln_b", "post")),
    ),
    "two containers": (
        {**linear("left.fc", 24, 12), **linear("right.fc", 24, 12)},
        replaced(("left", "one"), ("right", "two")),
    ),
    "one of two deeper": (
        {**linear("top.a", 24, 12), **linear("top.b.c", 24, 12)},
        replaced(("top.a", "top.x"), ("top.b.c", "top.y.z")),
    ),
    "numbers that do not fit": (
        {n: s for i in (0, 2, 5) for n, s in linear(f"h.{i}.a", 24, 12).items()},
        replaced(("h.0", "b.10"), ("h.2", "b.30"), ("h.5", "b.71")),
    ),
}


@pytest.mark.parametrize("name", NOT_UNIQUE)
@pytest.mark.parametrize("layout", ["torch", "flax"])
def test_nothing_is_proposed_where_a_pair_is_not_unique(name, layout):
    shapes, rename = NOT_UNIQUE[name]
    shapes = {**shapes, **linear("fixed", 5, 6)}
    torch_side = values(shapes)
    flax_side = as_flax(torch_side, rename)
    ways = (
        (torch_side, flax_side, "torch", "flax")
        if layout == "torch"
        else (flax_side, torch_side, "flax", "torch")
    )
    assert refusal(*ways).proposed_rules == ""


def test_what_has_a_partner_is_proposed_next_to_what_has_none(tmp_path):
    weights = values({**linear("body.first", 24, 12), **linear("body.head", 10, 24), **linear("fixed", 5, 6)})
    target = as_flax(weights, replaced(("first", "stem")))
    for name in [name for name in target if "head" in name]:
        del target[name]
    target |= values({"body.classifier.kernel": (24, 20), "body.classifier.bias": (20,)})
    error = refusal(weights, target, "torch", "flax")
    assert "body.stem.*" in error.proposed_rules
    assert error.proposed_rules.startswith("# 4 tensors")
    (tmp_path / "rules.toml").write_text(error.proposed_rules)
    plan = plan_conversion(
        state_of(weights, "torch"),
        to="flax",
        like=state_of(target, "flax"),
        rules=tmp_path / "rules.toml",
        check=False,
    )
    assert {join_key(key) for key in plan.missing} == {"body.classifier.kernel", "body.classifier.bias"}
    assert plan.problems.proposal is None


def test_other_places_are_compared_only_where_everything_has_a_partner():
    weights = values({**norm("encoder.ln", 24), **norm("decoder.ln", 20), **linear("fixed", 5, 6)})
    target = as_flax(weights, replaced(("encoder.ln", "decoder.pre"), ("decoder.ln", "encoder.pre")))
    assert "decoder.pre.*" in refusal(weights, target, "torch", "flax").proposed_rules
    del target["encoder.pre.scale"], target["encoder.pre.bias"]
    assert refusal(weights, target, "torch", "flax").proposed_rules == ""


def test_parameters_are_paired_by_their_shapes_where_no_two_axes_are_equal():
    weights = values({**linear("fc", 5, 6), "cls_token": (1, 1, 24), "pos": (1, 17, 24)})
    target = {**as_flax({n: v for n, v in weights.items() if "fc" in n}, str), "cls": weights["cls_token"]}
    target["pos_embedding"] = weights["pos"]
    rules = refusal(weights, target, "torch", "flax").proposed_rules
    assert 'source = "cls_token"\nrename = "cls"' in rules
    weights["pos"] = target["pos_embedding"] = values({"pos": (24, 24)})["pos"]
    assert 'rename = "pos_embedding"' not in refusal(weights, target, "torch", "flax").proposed_rules


def test_numbers_that_begin_elsewhere_are_related():
    weights = values(
        {n: s for i in (1, 2, 3) for n, s in norm(f"norm{i}", 24).items()} | linear("fixed", 5, 6)
    )
    numbers = {f"norm{i}": f"LayerNorm_{i - 1}" for i in (1, 2, 3)}
    target = as_flax(weights, lambda path: numbers.get(path, path))
    assert 'where = "a = i - 1"' in refusal(weights, target, "torch", "flax").proposed_rules


def test_names_that_are_no_patterns_are_not_proposed():
    for name in ("a{b", "a*", 'a"b', "a b", "a\u00e4"):
        weights = values({**norm("block.ln", 24), **linear("fixed", 5, 6)})
        target = as_flax(weights, replaced(("ln", name)))
        assert refusal(weights, target, "torch", "flax").proposed_rules == ""


def mamba():
    shapes = {
        "backbone.embeddings.weight": (41, 24),
        "backbone.norm_f.weight": (24,),
        "lm_head.weight": (41, 24),
    }
    for i in range(3):
        block = f"backbone.layers.{i}"
        shapes |= {f"{block}.norm.weight": (24,), f"{block}.mixer.norm.weight": (48,)}
        shapes |= {f"{block}.mixer.{leaf}": (6,) for leaf in ("A_log", "D", "dt_bias")}
        shapes |= {f"{block}.mixer.in_proj.weight": (120, 24), f"{block}.mixer.out_proj.weight": (24, 48)}
        shapes |= {f"{block}.mixer.conv1d.weight": (66, 1, 4), f"{block}.mixer.conv1d.bias": (66,)}
    return values(shapes)


def mamba_of_jax(weights):
    tree = {}
    for name, value in weights.items():
        new = name.replace("conv1d.", "conv1d.conv.").replace("norm_f", "final_norm")
        if "embeddings" in name:
            new = "backbone.embedder.embedding"
        elif value.ndim > 1:
            new, value = new.replace("weight", "kernel"), value.transpose(range(value.ndim)[::-1])
        tree[new] = np.ascontiguousarray(value)
    return tree


def run(*words):
    return CliRunner().invoke(main, list(words))


def write(path, weights):
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        tree = unflatten_dict({tuple(name.split(".")): value for name, value in weights.items()})
        path.write_bytes(msgpack_serialize(tree))


@pytest.mark.parametrize("towards", ["flax", "torch"])
def test_a_newcomer_gets_the_three_renames_of_mamba2_and_pastes_them(towards, tmp_path):
    weights = mamba()
    files = {"torch": tmp_path / "hf.safetensors", "flax": tmp_path / "jax.msgpack"}
    write(files["torch"], weights)
    write(files["flax"], mamba_of_jax(weights))
    source = files["torch" if towards == "flax" else "flax"]
    written, rules = tmp_path / f"written{files[towards].suffix}", tmp_path / "rules.toml"
    words = (str(source), "--to", towards, "--like", str(files[towards]))
    shown = run("plan", *words)
    assert shown.exit_code == 1
    assert shown.stdout.count("proposed rule: ") == 3
    text = run("convert", words[0], str(written), *words[1:]).stderr
    rules.write_text(text[text.index("source = ") :])
    assert run("convert", words[0], str(written), *words[1:], "--rules", str(rules)).exit_code == 0
    with open_state(files[towards]) as expected, open_state(written) as got:
        assert set(got) == set(expected)
        for key in got:
            np.testing.assert_array_equal(got[key], expected[key])

"""Where missing and unexpected names pair in one way only, a refusal ends with the rules; with them it is right."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import bridge_core
from bridge_core import MismatchError, convert, plan_conversion
from bridge_core.rules import rules_of_text
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
        path = rename(path)
        siblings = {
            other.rpartition(".")[2]
            for other in weights
            if other.rpartition(".")[0] == name.rpartition(".")[0]
        }
        if leaf == "weight":
            turned = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}.get(value.ndim)
            if "embed" in name.rpartition(".")[0].rpartition(".")[2]:
                leaf, turned = "embedding", None
            else:
                leaf = "kernel" if value.ndim > 1 else "scale" if "bias" in siblings else "scale"
            value = value if turned is None else value.transpose(turned)
        tree[f"{path}.{leaf}"] = np.ascontiguousarray(value)
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
    "another place": (encoder(), replaced(("encoder.final", "top.final_norm"))),
    "stages": (cnn(), replaced(("layer1", "stage_0"), ("layer2", "stage_1"))),
    "a prefix as well": (encoder(), lambda path: "bert." + path.replace("mlp.up", "mlp.wi")),
    "everything": (cnn(), replaced(("stem", "in"), ("conv", "convolution"), ("norm", "ln"), ("fc", "out"))),
}


def flat(tree):
    return {tuple(name.split(".")): value for name, value in tree.items()}


def state_of(weights, layout):
    return FlatState(flat(weights), layout=layout)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("towards", ["flax", "torch"])
def test_with_the_proposed_rules_a_conversion_is_complete_and_right(name, towards, tmp_path):
    shapes, rename = MODELS[name]
    torch_side = values(shapes)
    flax_side = as_flax(torch_side, rename)
    source, target = (torch_side, flax_side) if towards == "flax" else (flax_side, torch_side)
    layout = "torch" if towards == "flax" else "flax"
    plan = plan_conversion(state_of(source, layout), to=towards, like=state_of(target, towards), check=False)
    with pytest.raises(MismatchError) as caught:
        plan.check()
    toml = caught.value.proposed_rules
    assert str(caught.value).endswith(toml) and toml == plan.to_json()["proposed_rules"]
    (tmp_path / "rules.toml").write_text(toml)
    for one, other, to in ((source, target, towards), (target, source, layout)):
        planned = plan_conversion(
            state_of(one, layout if to == towards else towards),
            to=to,
            like=state_of(other, to),
            rules=tmp_path / "rules.toml",
        )
        made = planned.apply(state_of(one, planned.source_layout))
        assert set(map(join_key, made)) == set(other)
        for key in made:
            np.testing.assert_array_equal(made[key], other[join_key(key)])

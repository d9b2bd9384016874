"""Vision transformers of timm, and Linen models with the names of big_vision and of vision_transformer."""

import numpy as np
import pytest
import torch
from stubs import imported, stub_torchvision
from support.flax_vit import LinenVit
from support.rule_proofs import assert_same_outputs, randomised, run_linen, stored, stored_tree, torch_file

from bridge_core import convert

pytestmark = pytest.mark.proof

stub_torchvision()
timm = imported("timm")

WIDTH, HEADS, LAYERS, HIDDEN, PATCH, CLASSES = 24, 3, 2, 40, 5, 7
SIDES = (10, 15)

POOLS = {
    "original": {"global_pool": "token"},
    "tok": {"global_pool": "token", "no_embed_class": True},
    "gap": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "map": {"global_pool": "map", "class_token": False},
}

PICTURES = np.random.default_rng(0).standard_normal((2, *SIDES, 3)).astype(np.float32)


def ours(pool, seed=0):
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=SIDES,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=HEADS,
        mlp_ratio=HIDDEN / WIDTH,
        num_classes=CLASSES,
        act_layer="gelu_tanh",
        **POOLS[pool],
    )
    return randomised(model, seed)


def outputs(model):
    with torch.no_grad():
        return model(torch.from_numpy(PICTURES).permute(0, 3, 1, 2))


def linen_outputs(tree, pool):
    return run_linen(LinenVit(WIDTH, PATCH, LAYERS, HEADS, HIDDEN, CLASSES, pool), tree, PICTURES)


def recipe_for(pool):
    return "vit-timm-vision-transformer" if pool == "original" else "vit-timm-big-vision"


@pytest.mark.parametrize("pool", POOLS)
def test_there_and_back(pool, tmp_path):
    model = ours(pool)
    source = torch_file(model, tmp_path / "a" / "model.safetensors")
    convert(source, tmp_path / "made.npz", to="flax", recipe=(recipe_for(pool), {"heads": HEADS}))
    logits = outputs(model)
    assert_same_outputs(linen_outputs(stored_tree(tmp_path / "made.npz"), pool), logits)

    convert(tmp_path / "made.npz", tmp_path / "back.safetensors", to="torch", recipe=recipe_for(pool))
    other = ours(pool, seed=1)
    back = {name: torch.from_numpy(value) for name, value in stored(tmp_path / "back.safetensors").items()}
    other.load_state_dict(back, strict=True)
    assert_same_outputs(outputs(other), logits)


def test_other_weights_give_other_outputs(tmp_path):
    """The control: the heads are taken as another number of heads, which no shape shows."""
    model = ours("map")
    source = torch_file(model, tmp_path / "a" / "model.safetensors")
    convert(source, tmp_path / "made.npz", to="flax", recipe=("vit-timm-big-vision", {"heads": HEADS}))
    tree = stored_tree(tmp_path / "made.npz")
    place = "params/Transformer/encoderblock_1/MultiHeadDotProductAttention_0"
    for leaf in ("kernel", "bias"):
        query, key = f"{place}/query/{leaf}", f"{place}/key/{leaf}"
        tree[query], tree[key] = tree[key][..., ::-1], tree[query]
    with pytest.raises(AssertionError):
        assert_same_outputs(linen_outputs(tree, "map"), outputs(model))

"""Vision transformers: one model's weights under the names of both sides, made by hand."""

import numpy as np
import pytest
import torch
import transformers
from support.errors import refused
from support.flax_vit import LinenVit
from support.rule_proofs import (
    RECIPES,
    assert_same_outputs,
    assert_same_tree,
    changed,
    randomised,
    run_linen,
    stored,
    stored_tree,
    torch_file,
)

from bridge_core import PlanError, convert
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

WIDTH, HEADS, LAYERS, HIDDEN, PATCH, PLACES, CLASSES = 24, 3, 2, 40, 5, 6, 7

CONFIG = {"model_type": "vit", "num_attention_heads": HEADS, "hidden_size": WIDTH}

LINEN = {"attention": "MultiHeadDotProductAttention_0", "mlp": "MlpBlock_0", "norm": "LayerNorm_1"}
BEFORE_LINEN = {"attention": "MultiHeadDotProductAttention_1", "mlp": "MlpBlock_3", "norm": "LayerNorm_2"}


class Model:
    """Random weights of a vision transformer, by what they are; axes are as Flax has them.

    Args:
        token: Whether there is a class token.
        row: Whether it has a position of its own: random, of zeros (``0``) or none.
        attention_pool: Whether attention with a learnt query pools.
        head: The layers at the end: ``classifier``, ``before`` it.
    """

    def __init__(self, *, token=True, row=True, attention_pool=False, head=("classifier",)):
        self.rng = np.random.default_rng(0)
        self.layers = [self.block() for _ in range(LAYERS)]
        self.once = {
            "patch": (self.normal(PATCH, PATCH, 3, WIDTH), self.normal(WIDTH)),
            "norm": self.norm(),
            "places": self.normal(1, PLACES, WIDTH),
        }
        if token:
            self.once["token"] = self.normal(1, 1, WIDTH)
        if row is not None:
            self.once["row"] = self.normal(1, 1, WIDTH) if row else np.zeros((1, 1, WIDTH), np.float32)
        if "classifier" in head:
            self.once["head"] = (self.normal(WIDTH, CLASSES), self.normal(CLASSES))
        if "before" in head:
            self.once["before"] = (self.normal(WIDTH, WIDTH), self.normal(WIDTH))
        if attention_pool:
            self.pool = {**self.block(), "probe": self.normal(1, 1, WIDTH)}

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def norm(self):
        return self.normal(WIDTH), self.normal(WIDTH)

    def block(self):
        parts = {x: (self.normal(WIDTH, HEADS, 8), self.normal(HEADS, 8)) for x in ("query", "key", "value")}
        return {
            **parts,
            "out": (self.normal(HEADS, 8, WIDTH), self.normal(WIDTH)),
            "mlp": [
                (self.normal(WIDTH, HIDDEN), self.normal(HIDDEN)),
                (self.normal(HIDDEN, WIDTH), self.normal(WIDTH)),
            ],
            "norms": [self.norm(), self.norm()],
        }

    def flax(self, names=LINEN, positions="pos_embedding"):
        tree = {}

        def put(path, values, first="kernel"):
            tree[f"{path}/{first}"], tree[f"{path}/bias"] = values

        def block(path, one, names):
            for x in ("query", "key", "value", "out"):
                put(f"{path}/{names['attention']}/{x}", one[x])
            for n in range(2):
                put(f"{path}/{names['mlp']}/Dense_{n}", one["mlp"][n])

        for n, one in enumerate(self.layers):
            path = f"Transformer/encoderblock_{n}"
            block(path, one, names)
            put(f"{path}/LayerNorm_0", one["norms"][0], "scale")
            put(f"{path}/{names['norm']}", one["norms"][1], "scale")
        put("embedding", self.once["patch"])
        put("Transformer/encoder_norm", self.once["norm"], "scale")
        for part, path in (("head", "head"), ("before", "pre_logits")):
            if part in self.once:
                put(path, self.once[part])
        if "token" in self.once:
            tree["cls"] = self.once["token"]
        tree[positions] = self.once["places"]
        if "/" in positions:
            tree[positions] = np.concatenate([self.once["row"], self.once["places"]], axis=1)
        if hasattr(self, "pool"):
            block("MAPHead_0", self.pool, LINEN)
            put("MAPHead_0/LayerNorm_0", self.pool["norms"][0], "scale")
            tree["MAPHead_0/probe"] = self.pool["probe"]
        return tree

    def bonsai(self):
        """Return the state of bonsai's NNX model: other names, and the row and the places together."""
        tree = {}
        for name, value in self.flax(positions=IN_A_MODULE).items():
            for old, new in BONSAI.items():
                name = name.replace(old, new)
            tree[name] = value
        return tree

    def torch(self, names):
        """Return the state of transformers' or timm's model."""
        state = {}

        def put(path, kernel, bias):
            state[f"{path}.weight"] = np.ascontiguousarray(kernel.T)
            state[f"{path}.bias"] = bias

        def folded(one, *parts):
            kernels = [one[x][0].reshape(WIDTH, WIDTH) for x in parts]
            return np.concatenate(kernels, axis=1), np.concatenate([one[x][1].reshape(-1) for x in parts])

        for n, one in enumerate(self.layers):
            path = f"{names['layers']}.{n}"
            for name, parts in names["attention"].items():
                put(f"{path}.{name}", *folded(one, *parts))
            kernel, bias = one["out"]
            put(f"{path}.{names['out']}", kernel.reshape(WIDTH, WIDTH), bias)
            for n in range(2):
                put(f"{path}.{names['mlp'][n]}", *one["mlp"][n])
                put(f"{path}.{names['norms'][n]}", *one["norms"][n])
        kernel, bias = self.once["patch"]
        state[f"{names['patch']}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"{names['patch']}.bias"] = bias
        put(names["norm"], *self.once["norm"])
        for part in ("head", "before"):
            if part in self.once:
                put(names[part], *self.once[part])
        if "token" in self.once:
            state[names["token"]] = self.once["token"]
        rows = [self.once[part] for part in ("row", "places") if part in self.once]
        state[names["places"]] = np.concatenate(rows, axis=1)
        if hasattr(self, "pool"):
            state["attn_pool.latent"] = self.pool["probe"]
            put("attn_pool.q", *folded(self.pool, "query"))
            put("attn_pool.kv", *folded(self.pool, "key", "value"))
            kernel, bias = self.pool["out"]
            put("attn_pool.proj", kernel.reshape(WIDTH, WIDTH), bias)
            put("attn_pool.norm", *self.pool["norms"][0])
            for n in range(2):
                put(f"attn_pool.mlp.fc{n + 1}", *self.pool["mlp"][n])
        return state


def of_transformers(prefix):
    return {
        "layers": f"{prefix}encoder.layer",
        "attention": {f"attention.attention.{x}": (x,) for x in ("query", "key", "value")},
        "out": "attention.output.dense",
        "mlp": ("intermediate.dense", "output.dense"),
        "norms": ("layernorm_before", "layernorm_after"),
        "patch": f"{prefix}embeddings.patch_embeddings.projection",
        "norm": f"{prefix}layernorm",
        "head": "classifier",
        "before": f"{prefix}pooler.dense",
        "token": f"{prefix}embeddings.cls_token",
        "places": f"{prefix}embeddings.position_embeddings",
    }


TIMM = {
    "layers": "blocks",
    "attention": {"attn.qkv": ("query", "key", "value")},
    "out": "attn.proj",
    "mlp": ("mlp.fc1", "mlp.fc2"),
    "norms": ("norm1", "norm2"),
    "patch": "patch_embed.proj",
    "norm": "norm",
    "head": "head",
    "before": "pre_logits.fc",
    "token": "cls_token",
    "places": "pos_embed",
}

IN_A_MODULE = "Transformer/posembed_input/pos_embedding"

BONSAI = {
    IN_A_MODULE: "pos_embeddings/pos_embeddings",
    "Transformer/encoderblock_": "layers/",
    "Transformer/encoder_norm": "ln",
    "MultiHeadDotProductAttention_0": "attention",
    "MlpBlock_0/Dense_0": "linear1",
    "MlpBlock_0/Dense_1": "linear2",
    "LayerNorm_0": "layernorm_before",
    "LayerNorm_1": "layernorm_after",
    "embedding/": "pos_embeddings/projection/",
    "cls": "pos_embeddings/cls_token",
    "head/": "classifier/",
}
"""The names of vision_transformer -> those of bonsai."""


@pytest.mark.slow
class TestVitVisionTransformer(RecipeContract):
    recipe = load_recipe(RECIPES / "vit-vision-transformer.toml")

    def samples(self):
        model = Model()
        tree = model.flax(positions=IN_A_MODULE)
        yield RecipeSample(
            model.torch(of_transformers("vit.")),
            tree,
            source_config=CONFIG,
            sizes={"heads": HEADS},
            name="classifier",
        )


class TestVitBigVision(RecipeContract):
    recipe = load_recipe(RECIPES / "vit-big-vision.toml")

    def samples(self):
        model = Model(row=0)
        yield RecipeSample(
            model.torch(of_transformers("vit.")),
            model.flax(),
            source_config=CONFIG,
            sizes={"heads": HEADS},
            tolerance=1e-30,  # all is exact, which only the values show: that the row is of zeros
            name="classifier",
        )

    @pytest.mark.slow
    def test_a_tensor_less_is_refused(self, tmp_path):
        super().test_a_tensor_less_is_refused(tmp_path)


@pytest.mark.slow
class TestVitBonsai(RecipeContract):
    recipe = load_recipe(RECIPES / "vit-bonsai.toml")

    def samples(self):
        model = Model()
        yield RecipeSample(
            model.torch(of_transformers("vit.")),
            model.bonsai(),
            source_config=CONFIG,
            sizes={"heads": HEADS},
            name="classifier",
        )


@pytest.mark.slow
class TestVitTimmVisionTransformer(RecipeContract):
    recipe = load_recipe(RECIPES / "vit-timm-vision-transformer.toml")

    def samples(self):
        model = Model()
        tree = model.flax(positions=IN_A_MODULE)
        yield RecipeSample(model.torch(TIMM), tree, sizes={"heads": HEADS}, name="classifier")
        model = Model(head=("classifier", "before"))
        tree = model.flax(positions=IN_A_MODULE)
        yield RecipeSample(model.torch(TIMM), tree, sizes={"heads": HEADS}, name="pre_logits")


@pytest.mark.slow
class TestVitTimmBigVision(RecipeContract):
    recipe = load_recipe(RECIPES / "vit-timm-big-vision.toml")

    def samples(self):
        for name, options in {
            "gap": {"token": False},
            "tok": {},
            "map": {"token": False, "attention_pool": True},
            "no head": {"token": False, "attention_pool": True, "head": ()},
        }.items():
            model = Model(row=None, **options)
            yield RecipeSample(
                model.torch(TIMM),
                model.flax(),
                sizes={"heads": HEADS},
                name=name,
                may_lack=frozenset({"cls_token", "cls"}),  # then it is a model of the pool gap
            )


def test_a_position_of_the_class_token_is_not_lost(tmp_path):
    """big_vision has no place for it; vision_transformer has."""
    source = torch_file(Model().torch(of_transformers("vit.")), tmp_path / "a" / "model.safetensors", CONFIG)
    with refused(PlanError, "pos_embedding", "vit-big-vision.toml"):
        convert(source, tmp_path / "made.npz", to="flax", recipe=TestVitBigVision.recipe)
    assert not (tmp_path / "made.npz").exists()


@pytest.mark.parametrize("head", [("before",), ()])
@pytest.mark.parametrize("names", [LINEN, BEFORE_LINEN], ids=["linen", "before linen"])
def test_published_files_become_transformers_model_without_a_head(names, head, tmp_path):
    model = Model(head=head)
    np.savez(tmp_path / "vit.npz", **model.flax(names, IN_A_MODULE))
    state = model.torch(of_transformers(""))
    like = torch_file(state, tmp_path / "like" / "model.safetensors")
    convert(
        tmp_path / "vit.npz",
        tmp_path / "made.safetensors",
        to="torch",
        recipe=TestVitVisionTransformer.recipe,
        like=like,
    )
    assert_same_tree(stored(tmp_path / "made.safetensors"), state)


# -- outputs

SIDES = (10, 15)  # of a picture: two by three places
PICTURES = np.random.default_rng(0).standard_normal((2, *SIDES, 3)).astype(np.float32)


def of_the_library():
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        image_size=SIDES,
        patch_size=PATCH,
        num_labels=CLASSES,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    return randomised(transformers.ViTForImageClassification(config))


def linen_outputs(tree, pool):
    return run_linen(LinenVit(WIDTH, PATCH, LAYERS, HEADS, HIDDEN, CLASSES, pool), tree, PICTURES)


def torch_outputs(model):
    with torch.no_grad():
        return model(torch.from_numpy(PICTURES).permute(0, 3, 1, 2)).logits


def test_the_outputs_are_those_of_vision_transformer(tmp_path):
    model = of_the_library()
    source = torch_file(model, tmp_path / "a" / "model.safetensors", model.config.to_dict())
    recipe = TestVitVisionTransformer.recipe
    convert(source, tmp_path / "made.npz", to="flax", recipe=recipe)
    logits = torch_outputs(model)
    assert_same_outputs(linen_outputs(stored_tree(tmp_path / "made.npz"), "original"), logits)

    # The control: heads and their rows change places, which no shape shows.
    wrong = changed(recipe.path, "(heads h) d -> d heads h", "(h heads) d -> d heads h", tmp_path)
    convert(source, tmp_path / "wrong.npz", to="flax", rules=wrong)
    with pytest.raises(AssertionError):
        assert_same_outputs(linen_outputs(stored_tree(tmp_path / "wrong.npz"), "original"), logits)


@pytest.mark.slow
def test_the_outputs_are_those_of_big_vision(tmp_path):
    weights = Model().flax()
    np.savez(tmp_path / "vit.npz", **{f"params/{name}": value for name, value in weights.items()})
    convert(tmp_path / "vit.npz", tmp_path / "made.safetensors", to="torch", recipe=TestVitBigVision.recipe)
    model = of_the_library()
    made = {name: torch.from_numpy(value) for name, value in stored(tmp_path / "made.safetensors").items()}
    model.load_state_dict(made, strict=True)
    logits = torch_outputs(model)
    tree = {f"params/{name}": value for name, value in weights.items()}
    assert_same_outputs(linen_outputs(tree, "tok"), logits)

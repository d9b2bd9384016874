"""BERT of transformers and the names of its TensorFlow 1 checkpoints, by hand."""

import numpy as np
import pytest
import torch
import transformers
from support.rule_proofs import RECIPES, arrays, assert_same_tree, randomised, stored, torch_file

from bridge_core import convert, open_state
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

FILE = RECIPES / "bert-tf.toml"
COPIES = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
CLASSES = {
    "pretraining": transformers.BertForPreTraining,
    "classifier": transformers.BertForSequenceClassification,
    "squad": transformers.BertForQuestionAnswering,
}


def model(kind):
    config = transformers.BertConfig(
        vocab_size=41,
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=17,
        num_labels=3 if kind == "classifier" else 2,
    )
    return randomised(CLASSES[kind](config))


def by_hand(weights):
    """Return TensorFlow's variables: kernels are inputs by outputs, all else is as it was."""
    heads = {
        "cls.predictions.bias": "cls/predictions/output_bias",
        "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
        "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
        "classifier.weight": "output_weights",
        "classifier.bias": "output_bias",
        "qa_outputs.weight": "cls/squad/output_weights",
        "qa_outputs.bias": "cls/squad/output_bias",
    }
    variables = {}
    for name, value in weights.items():
        if name in heads:
            variables[heads[name]] = value
            continue
        *path, leaf = name.split(".")
        new = "/".join(path).replace("encoder/layer/", "encoder/layer_")
        if path[-1] == "LayerNorm":
            variables[f"{new}/{'gamma' if leaf == 'weight' else 'beta'}"] = value
        elif "_embeddings" in path[-1]:
            variables[new] = value
        elif leaf == "weight":
            variables[f"{new}/kernel"] = np.ascontiguousarray(value.T)
        else:
            variables[f"{new}/bias"] = value
    return variables


def sample(kind):
    bert = model(kind)
    weights = {name: value for name, value in arrays(bert).items() if name not in COPIES}
    variables = by_hand(weights)
    base = {name for name in (*weights, *variables) if name.startswith(("bert.e", "bert/e"))}
    return RecipeSample(
        source=weights,
        target=variables,
        name=kind,
        source_config=bert.config.to_diff_dict(),
        may_lack=frozenset({*weights, *variables} - base),
    )


@pytest.mark.slow
class TestBert(RecipeContract):
    recipe = load_recipe(FILE)

    def samples(self):
        yield from map(sample, CLASSES)


@pytest.fixture
def pretrained():
    return model("pretraining")


@pytest.mark.slow
def test_a_training_run_is_read(pretrained, tmp_path):
    """The optimizer's values have the names of the weights before their own."""
    weights = {name: value for name, value in arrays(pretrained).items() if name not in COPIES}
    variables = by_hand(weights)
    slots = {
        f"{name}/{slot}": value * 2 for name, value in variables.items() for slot in ("adam_m", "adam_v")
    }
    np.savez(tmp_path / "run.npz", **variables, **slots, global_step=np.int64(7))
    convert(tmp_path / "run.npz", tmp_path / "torch.safetensors", to="torch", recipe=load_recipe(FILE))
    assert_same_tree(stored(tmp_path / "torch.safetensors"), weights)


@pytest.mark.slow
def test_names_of_the_first_releases_and_stored_copies_are_read(pretrained, tmp_path):
    weights = arrays(pretrained)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(17)[None]
    source = torch_file(old, tmp_path / "old" / "model.safetensors", pretrained.config.to_diff_dict())
    convert(source, tmp_path / "tf.npz", to="flax", recipe=load_recipe(FILE))
    names = {name: value for name, value in weights.items() if name not in COPIES}
    with open_state(tmp_path / "tf.npz") as state:
        found = {"/".join(key): np.asarray(state[key]) for key in state}
    assert_same_tree(found, by_hand(names))
    assert torch.equal(
        pretrained.cls.predictions.decoder.weight, pretrained.bert.embeddings.word_embeddings.weight
    )

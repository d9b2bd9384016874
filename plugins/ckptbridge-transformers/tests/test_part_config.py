"""A part of a checkpoint that ``only=`` chooses: its config is that of a model with exactly these weights."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from bridge_core import convert, open_state, plan_conversion, verify
from ckptbridge_transformers.part_config import with_values

DECODER = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "bos_token_id": 1,
    "eos_token_id": 39,
    "pad_token_id": None,
}
LAYERS, ROWS = "model.layers=2", "model.embed_tokens.weight=10"


def llama(**options):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, **options}))


def qwen2():
    """Layers of two types, which the config lists."""
    types = ["full_attention", "sliding_attention"] * 2
    config = transformers.Qwen2Config(**DECODER, layer_types=types, use_sliding_window=True, sliding_window=4)
    return transformers.Qwen2ForCausalLM(config)


def mixtral():
    config = transformers.MixtralConfig(**DECODER, num_local_experts=6, num_experts_per_tok=3)
    return transformers.MixtralForCausalLM(config)


def qwen3_moe():
    config = transformers.Qwen3MoeConfig(
        **DECODER,
        head_dim=4,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=8,
        mlp_only_layers=[1, 3],
    )
    return transformers.Qwen3MoeForCausalLM(config)


def t5(**options):
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=4, num_decoder_layers=4, num_heads=4, **options
    )
    return transformers.T5ForConditionalGeneration(config)


def bert():
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
    )
    return transformers.BertForMaskedLM(config)


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=4, n_head=4, n_positions=20)
    )


def vit():
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
    )
    return transformers.ViTForImageClassification(config)


def llava():
    """The counts are in configs inside of the config."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=24,
            image_size=8,
            patch_size=4,
        ),
        text_config=transformers.LlamaConfig(**DECODER),
        image_token_index=5,
        vision_feature_layer=-1,
    )
    return transformers.LlavaForConditionalGeneration(config)


EXPERTS = ["**.experts=4", "**.gate.weight=4"]
CASES = {
    "llama": (llama, [LAYERS, ROWS, "lm_head.weight=10"], {"num_hidden_layers": 2, "vocab_size": 10}),
    "llama tied": (lambda: llama(tie_word_embeddings=True), [LAYERS, ROWS], {"vocab_size": 10}),
    "layers only": (llama, [LAYERS], {"num_hidden_layers": 2, "vocab_size": 40, "num_attention_heads": 4}),
    "layer types": (qwen2, ["model.layers=1"], {"layer_types": ["full_attention"]}),
    "mixtral": (mixtral, [LAYERS, *EXPERTS], {"num_hidden_layers": 2, "num_local_experts": 4}),
    "few experts": (
        mixtral,
        ["**.experts=2", "**.gate.weight=2"],
        {"num_hidden_layers": 4, "num_local_experts": 2, "num_experts_per_tok": 2},
    ),
    "qwen3 moe": (
        qwen3_moe,
        [LAYERS, "**.experts=4", "**.mlp.gate.weight=4"],
        {"num_experts": 4, "mlp_only_layers": [1]},
    ),
    "t5": (t5, ["encoder.block=2", "decoder.block=3"], {"num_layers": 2, "num_decoder_layers": 3}),
    "t5 encoder": (t5, ["encoder.block=2"], {"num_layers": 2, "num_decoder_layers": 4}),
    "t5 untied": (
        lambda: t5(tie_word_embeddings=False),
        ["**.block=2", "shared.weight=10", "lm_head.weight=10"],
        {"num_layers": 2, "num_decoder_layers": 2, "vocab_size": 10},
    ),
    "bert": (
        bert,
        [
            "bert.encoder.layer=2",
            "bert.embeddings.word_embeddings.weight=10",
            "bert.embeddings.position_embeddings.weight=8",
            "cls.predictions.bias=10",
        ],
        {"num_hidden_layers": 2, "vocab_size": 10, "max_position_embeddings": 8},
    ),
    "gpt2": (
        gpt2,
        ["transformer.h=2", "transformer.wte.weight=10", "transformer.wpe.weight=8"],
        {"n_layer": 2, "vocab_size": 10, "n_positions": 8},
    ),
    "vit": (vit, ["vit.encoder.layer=2"], {"num_hidden_layers": 2}),
    "llava": (llava, ["**.layers=2"], {}),
}


def saved(make, folder):
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(folder)
    return model


def run(model):
    """Return what a model computes of a small input."""
    with torch.no_grad():
        if model.main_input_name == "pixel_values" and not hasattr(model, "lm_head"):
            return model(pixel_values=torch.ones(1, 3, 8, 8)).logits
        ids = torch.tensor([[1, 2, 3, 4]])
        options = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        return model(input_ids=ids, **options).logits


def loaded(folder):
    """Load a folder as transformers does, and check that every name is used and none is missing."""
    config = json.loads((folder / "config.json").read_text())
    model_class = getattr(transformers, config["architectures"][0])
    model, found = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval(), config


FAST = ("llama tied", "layer types", "vit")
CASES_OR_SLOW = [pytest.param(case, marks=() if case in FAST else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", CASES_OR_SLOW)
def test_the_config_fits_the_part(tmp_path, case):
    make, only, entries = CASES[case]
    saved(make, tmp_path / "big")
    report = convert(tmp_path / "big", f"{tmp_path}/small/", to="torch", only=only)
    model, config = loaded(tmp_path / "small")
    assert {name: config.get(name) for name in entries} == entries
    assert torch.isfinite(run(model)).all()
    assert report.exact
    big = {}
    for file in (tmp_path / "big").glob("*.safetensors"):
        big.update(load_file(file))
    for name, tensor in load_file(tmp_path / "small" / "model.safetensors").items():
        part = big[name][tuple(map(slice, tensor.shape))]
        assert torch.equal(tensor, part), name


@pytest.mark.slow
def test_nested_configs_are_cut(tmp_path):
    saved(llava, tmp_path / "big")
    convert(tmp_path / "big", f"{tmp_path}/small/", to="torch", only="**.layers=2")
    _, config = loaded(tmp_path / "small")
    assert config["text_config"]["num_hidden_layers"] == 2
    assert config["vision_config"]["num_hidden_layers"] == 2
    convert(tmp_path / "big", f"{tmp_path}/text/", to="torch", only="language_model.**.layers=3")
    _, config = loaded(tmp_path / "text")
    assert config["text_config"]["num_hidden_layers"] == 3
    assert config["vision_config"]["num_hidden_layers"] == 4


@pytest.mark.slow
def test_the_part_computes_what_the_layers_of_the_whole_do(tmp_path):
    whole = saved(gpt2, tmp_path / "big")
    convert(tmp_path / "big", f"{tmp_path}/small/", to="torch", only="transformer.h=2")
    part, _ = loaded(tmp_path / "small")
    whole.transformer.h = whole.transformer.h[:2]
    assert torch.equal(run(part), run(whole))


def test_special_tokens_beyond_the_vocabulary_are_removed(tmp_path):
    saved(llama, tmp_path / "big")
    (tmp_path / "big" / "tokenizer.json").write_text("{}")
    only = [ROWS, "lm_head.weight=10"]
    report = convert(tmp_path / "big", f"{tmp_path}/small/", to="torch", only=only)
    _, config = loaded(tmp_path / "small")
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, None)
    generation = json.loads((tmp_path / "small" / "generation_config.json").read_text())
    assert generation["eos_token_id"] is None
    assert any("tokenizer" in note for note in report.notes)


@pytest.mark.parametrize(
    "only",
    [
        "model.layers.1",
        ["model.layers=2", ROWS],  # an untied head of another size
        [LAYERS, "model.norm"],
        "**.mlp",
    ],
)
def test_no_config_is_written_that_does_not_fit(tmp_path, only):
    saved(llama, tmp_path / "big")
    report = convert(tmp_path / "big", f"{tmp_path}/small/", to="torch", only=only)
    assert not (tmp_path / "small" / "config.json").exists()
    assert report.sidecar_files == ()
    assert any("config.json is not written" in note for note in report.notes)
    assert verify(tmp_path / "big", tmp_path / "small", only=only).equal


def test_a_part_of_a_whole_copy_keeps_the_config(tmp_path):
    saved(llama, tmp_path / "big")
    convert(tmp_path / "big", f"{tmp_path}/small/", to="torch", only="**")
    assert (tmp_path / "small" / "config.json").read_bytes() == (
        tmp_path / "big" / "config.json"
    ).read_bytes()


@pytest.mark.slow
def test_a_part_for_flax(tmp_path):
    """The template is the Flax class of the smaller config, so that nothing is missing."""
    saved(bert, tmp_path / "big")
    only = CASES["bert"][1]
    convert(tmp_path / "big", f"{tmp_path}/flax/", to="flax", only=only)
    convert(tmp_path / "flax", f"{tmp_path}/back/", to="torch")
    small, _ = loaded(tmp_path / "back")
    convert(tmp_path / "big", f"{tmp_path}/torch/", to="torch", only=only)
    same, _ = loaded(tmp_path / "torch")
    assert torch.equal(run(small), run(same))
    assert verify(tmp_path / "big", tmp_path / "flax", only=only).equal


@pytest.mark.slow
def test_a_part_of_flax(tmp_path):
    saved(bert, tmp_path / "big")
    convert(tmp_path / "big", f"{tmp_path}/flax/", to="flax")
    convert(tmp_path / "flax", f"{tmp_path}/small/", to="flax", only="**.encoder.layer=2")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    convert(tmp_path / "flax", f"{tmp_path}/torch/", to="torch", only="bert/encoder/layer=2")
    model, _ = loaded(tmp_path / "torch")
    assert len(model.bert.encoder.layer) == 2


@pytest.mark.slow
def test_one_layer_for_flax(tmp_path):
    """The class that the folder names is the template; what other layers would fill is left unfilled."""
    saved(bert, tmp_path / "big")
    report = convert(tmp_path / "big", f"{tmp_path}/one/", to="flax", only="bert.encoder.layer.1")
    state = open_state(tmp_path / "one")
    assert {key[-5:-4] for key in state} <= {("1",), ("layer",)}
    assert len(state) == 16
    assert len(report.unfilled) > 16
    assert not (tmp_path / "one" / "config.json").exists()


def test_a_plan_shows_the_part(tmp_path):
    saved(llama, tmp_path / "big")
    document = plan_conversion(tmp_path / "big", to="torch", only=LAYERS).to_json()
    assert document["only"]["patterns"] == [LAYERS]
    assert [entry["name"] for entry in document["left_out"]] == ["model.layers.2", "model.layers.3"]


def test_values_follow_a_count():
    stored = {
        "num_hidden_layers": 4,
        "layer_types": ["a", "b", "c", "d"],
        "sizes": [1, 2, 3, 4],
        "mlp_only_layers": [0, 3],
        "text_config": {"num_layers": 3},
    }
    changes = {((), "num_hidden_layers"): 2, (("text_config",), "num_layers"): 1}
    assert with_values(stored, stored, changes) == {
        "num_hidden_layers": 2,
        "layer_types": ["a", "b"],
        "sizes": [1, 2, 3, 4],
        "mlp_only_layers": [0],
        "text_config": {"num_layers": 1},
    }

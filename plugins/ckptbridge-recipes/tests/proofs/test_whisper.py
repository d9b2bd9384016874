"""Whisper of transformers and of OpenAI give the same outputs with the same weights, converted both ways."""

import sys
import types

import numpy as np
import pytest
import torch
import transformers
from stubs import bare, imported, stub_torchvision
from support.rule_proofs import arrays, assert_same_outputs, randomised, stored, torch_file

from bridge_core import convert

pytestmark = pytest.mark.proof

stub_torchvision()

ENCODER, DECODER = (2, 3), (3, 4)  # layers, heads
WIDTH, MELS, SOUNDS, PLACES, WORDS = 24, 5, 11, 7, 37

rng = np.random.default_rng(0)
SPECTRUM = torch.from_numpy(rng.standard_normal((2, MELS, 2 * SOUNDS)).astype(np.float32))
TOKENS = torch.from_numpy(rng.integers(0, WORDS, (2, PLACES)))


@pytest.fixture(scope="module")
def whisper_model():
    """``whisper.model`` without the tokeniser and the audio, which want packages of their own."""
    bare("whisper")
    for name, functions in {"decoding": ("decode", "detect_language"), "transcribe": ("transcribe",)}.items():
        module = types.ModuleType(f"whisper.{name}")
        vars(module).update(dict.fromkeys(functions))
        sys.modules[module.__name__] = module
    return imported("whisper.model")


def ours():
    config = transformers.WhisperConfig(
        d_model=WIDTH,
        encoder_layers=ENCODER[0],
        encoder_attention_heads=ENCODER[1],
        encoder_ffn_dim=4 * WIDTH,
        decoder_layers=DECODER[0],
        decoder_attention_heads=DECODER[1],
        decoder_ffn_dim=4 * WIDTH,
        num_mel_bins=MELS,
        max_source_positions=SOUNDS,
        max_target_positions=PLACES,
        vocab_size=WORDS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        attn_implementation="eager",
    )
    return randomised(transformers.WhisperForConditionalGeneration(config))


def theirs(whisper_model):
    sizes = whisper_model.ModelDimensions(
        n_mels=MELS,
        n_audio_ctx=SOUNDS,
        n_audio_state=WIDTH,
        n_audio_head=ENCODER[1],
        n_audio_layer=ENCODER[0],
        n_vocab=WORDS,
        n_text_ctx=PLACES,
        n_text_state=WIDTH,
        n_text_head=DECODER[1],
        n_text_layer=DECODER[0],
    )
    model = whisper_model.Whisper(sizes)
    torch.nn.init.zeros_(model.decoder.positional_embedding)  # it is made without values
    return randomised(model, seed=1)


def outputs(model):
    with torch.no_grad():
        if isinstance(model, transformers.WhisperForConditionalGeneration):
            return model(input_features=SPECTRUM, decoder_input_ids=TOKENS).logits
        return model(SPECTRUM, TOKENS)


def weights_of(path):
    return {name: torch.from_numpy(value) for name, value in stored(path).items()}


def test_from_transformers(whisper_model, tmp_path):
    model, other = ours(), theirs(whisper_model)
    weights = {name: value for name, value in arrays(model).items() if name != "proj_out.weight"}
    source = torch_file(weights, tmp_path / "source" / "model.safetensors", model.config.to_dict())
    convert(source, tmp_path / "made.safetensors", to="torch", recipe="whisper-openai")
    other.load_state_dict(weights_of(tmp_path / "made.safetensors"), strict=True)
    assert_same_outputs(outputs(other), outputs(model))


def test_from_a_file_of_openai(whisper_model, tmp_path):
    model, other = theirs(whisper_model), ours()
    state = {"dims": vars(model.dims), "model_state_dict": model.state_dict()}
    torch.save(state, tmp_path / "tiny.pt")
    convert(tmp_path / "tiny.pt", tmp_path / "made.safetensors", to="torch", recipe="whisper-openai")
    problems = other.load_state_dict(weights_of(tmp_path / "made.safetensors"), strict=False)
    assert problems.missing_keys == ["proj_out.weight"]  # it is the embedding's tensor
    assert problems.unexpected_keys == []
    assert_same_outputs(outputs(other), outputs(model))


def test_other_weights_give_other_outputs(whisper_model, tmp_path):
    """The control: queries and outputs of one layer change places, which no shape shows."""
    model, other = ours(), theirs(whisper_model)
    wanted = outputs(model)
    attention = model.model.decoder.layers[2].encoder_attn
    attention.q_proj, attention.out_proj = attention.out_proj, attention.q_proj
    source = torch_file(model, tmp_path / "source" / "model.safetensors", model.config.to_dict())
    convert(source, tmp_path / "made.safetensors", to="torch", recipe="whisper-openai")
    other.load_state_dict(weights_of(tmp_path / "made.safetensors"), strict=True)
    with pytest.raises(AssertionError):
        assert_same_outputs(outputs(other), wanted)

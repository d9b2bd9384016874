"""Flax folders converted under transformers 5, which has no Flax itself, and opened with it.

Two releases of one library cannot be imported together. So this file is also a program: the test makes the
folders and the expected values with transformers 4, then runs the file under transformers 5, laid over the
same environment (see ``.ci/transformers5``), where it converts and opens them and notes what it found.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OVERLAY = "CKPTBRIDGE_TRANSFORMERS5"
FOUND = "found.json"

TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 2, "n_positions": 20}
IMAGE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [2, 2], "layer_type": "basic"}
SPEECH = {
    **TEXT,
    "conv_dim": (16, 16),
    "conv_stride": (2, 2),
    "conv_kernel": (4, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
TOKENS = ("input_ids",)
PIXELS = ("pixel_values",)


@dataclass(frozen=True)
class Case:
    """One model class, its config class and options, and the inputs that it takes."""

    name: str
    model: str
    config: str
    options: dict[str, Any]
    inputs: tuple[str, ...] = TOKENS


CASES = (
    Case("bert", "BertModel", "BertConfig", TEXT),
    Case("bert-masked-lm", "BertForMaskedLM", "BertConfig", TEXT),
    # transformers 4 stores one of two biases that it shares and transformers 5 does not
    Case("bert-untied", "BertForMaskedLM", "BertConfig", {**TEXT, "tie_word_embeddings": False}),
    Case("llama", "LlamaForCausalLM", "LlamaConfig", {**TEXT, "num_key_value_heads": 1}),
    Case("gpt2", "GPT2LMHeadModel", "GPT2Config", GPT2),  # square projections that are not transposed
    Case("t5", "T5ForConditionalGeneration", "T5Config", T5, (*TOKENS, "decoder_input_ids")),
    # its head is a tensor of its own, which the model class of transformers 5 calls tied
    Case(
        "t5-untied",
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        (*TOKENS, "decoder_input_ids"),
    ),
    # from here on, names in memory that are not those on disk
    Case("vit", "ViTForImageClassification", "ViTConfig", IMAGE, PIXELS),
    Case("beit", "BeitModel", "BeitConfig", {**IMAGE, "use_relative_position_bias": True}, PIXELS),
    Case("dinov2", "Dinov2Model", "Dinov2Config", {**IMAGE, "use_swiglu_ffn": True}, PIXELS),
    Case(
        "clip", "CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": IMAGE}, (*TOKENS, *PIXELS)
    ),
    Case("clip-text", "CLIPTextModel", "CLIPTextConfig", TEXT),
    # weight norm and batch statistics
    Case("wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", SPEECH, ("input_values",)),
    Case("resnet", "ResNetModel", "ResNetConfig", RESNET, PIXELS),
)


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    tokens = {name: rng.integers(3, 39, (2, 7)) for name in ("input_ids", "decoder_input_ids")}
    images = {"pixel_values": rng.normal(size=(2, 3, 16, 16)).astype(np.float32)}
    sounds = {"input_values": rng.normal(size=(2, 60)).astype(np.float32)}
    return {name: {**tokens, **images, **sounds}[name] for name in case.inputs}


# ---- under transformers 4: the folders, and what must come out


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Make every case's folders, have transformers 5 convert and open them, and return what it found."""
    overlay = os.environ.get(OVERLAY)
    if not overlay:
        pytest.skip(f"{OVERLAY} names no folder with transformers 5; `.ci/transformers5 FOLDER` makes one")
    root = tmp_path_factory.mktemp("transformers5")
    for case in CASES:
        make_folders(case, root / case.name)
    settings = {**os.environ, "PYTHONPATH": overlay, "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).resolve()), str(root)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return {case.name: {"folder": root / case.name, **read_found(root / case.name)} for case in CASES}


def make_folders(case: Case, folder: Path) -> None:
    """Write ``torch/`` and ``flax/`` with the same random weights, and the Flax model's output."""
    import torch
    import transformers

    import bridge_flax
    import bridge_torch
    from ckptbridge_transformers.families import rules_for
    from ckptbridge_transformers.templates import abstract_flax, clip_with_old_names, flax_template

    torch.manual_seed(0)
    config = getattr(transformers, case.config)(**case.options)
    source = getattr(transformers, case.model)(config).eval()
    randomise(source)
    source.save_pretrained(folder / "torch")
    model = abstract_flax(getattr(transformers, f"Flax{case.model}"), config)
    rules = rules_for(config, case.model)
    neutral = bridge_torch.to_neutral(source, rules=rules)
    params = bridge_flax.from_neutral(neutral, like=flax_template(model), rules=rules)
    model.save_pretrained(folder / "flax", params=params)
    inputs = {name: narrow(value) for name, value in inputs_of(case).items()}
    with clip_with_old_names():
        output = np.asarray(model(**inputs, params=params)[0])
    with torch.no_grad():
        expected = source(**{name: torch.from_numpy(value) for name, value in inputs_of(case).items()})[0]
    np.testing.assert_allclose(output, expected.numpy(), rtol=0, atol=1e-5)
    np.save(folder / "output.npy", output)


def narrow(value: np.ndarray) -> np.ndarray:
    return value.astype(np.int32) if value.dtype == np.int64 else value


def randomise(model: Any) -> None:
    """Give everything in the state dict values of its own, of a size that keeps outputs near one."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.rand(tensor.shape, generator=generator)
            if not tensor.is_floating_point():
                continue  # Flax counts no batches
            if name.endswith(("running_var", "original0")):
                tensor.copy_(noise + 0.5)
            elif tensor.dim() > 1:
                tensor.copy_((noise - 0.5) * tensor[0].numel() ** -0.5)
            else:
                tensor.copy_(noise)


def read_found(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / FOUND).read_text())
    return found


# ---- under transformers 5: convert, open, compare


def main(root: Path) -> None:
    import transformers

    if transformers.__version__.split(".")[0] != "5":
        sys.exit(f"transformers {transformers.__version__} is not 5; is {OVERLAY} right?")
    for case in CASES:
        try:
            found = converted(case, root / case.name)
        except Exception:
            found = {"failed": traceback.format_exc()}
        (root / case.name / FOUND).write_text(json.dumps(found))


def converted(case: Case, folder: Path) -> dict[str, Any]:
    import torch
    import transformers

    from bridge_core.cli import main as ckptbridge

    made = folder / "made"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            ckptbridge(["convert", str(folder / "flax"), f"{made}{os.sep}", "--to", "torch"])
    except SystemExit as end:
        if end.code:
            return {"failed": said.getvalue()}
    own = getattr(transformers, case.model)
    model, info = own.from_pretrained(made, output_loading_info=True)
    reference, reference_info = own.from_pretrained(folder / "torch", output_loading_info=True)
    auto, auto_info = transformers.AutoModel.from_pretrained(made, output_loading_info=True)
    auto_reference, auto_expected = transformers.AutoModel.from_pretrained(
        folder / "torch", output_loading_info=True
    )
    with torch.no_grad():
        output = model.eval()(**{name: torch.from_numpy(value) for name, value in inputs_of(case).items()})[0]
    difference = np.abs(output.numpy() - np.load(folder / "output.npy")).max()
    return {
        "info": plain(info),
        "auto": plain(auto_info, but=reference_info["missing_keys"]),
        "auto_expected": plain(auto_expected),
        "tensors": len(model.state_dict()),
        "different": differing(model, reference, reference_info["missing_keys"]),
        "auto_different": differing(auto, auto_reference, auto_expected["missing_keys"]),
        "difference": float(difference),
    }


def plain(info: dict[str, Any], but: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return what loading could not place, as plain data, leaving out some names."""
    names = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return {name: sorted(map(str, set(info[name]) - set(but))) for name in names}


def differing(model: Any, reference: Any, random: Iterable[str]) -> list[str]:
    """Return the names whose values are not the same bit for bit.

    Args:
        model: What was converted.
        reference: What transformers 4 wrote.
        random: Names that transformers 5 does not find in the reference and initialises anew.
    """
    import torch

    ours, theirs = model.state_dict(), reference.state_dict()
    common = ours.keys() & theirs.keys()
    different = {name for name in common if not torch.equal(ours[name], theirs[name])}
    return sorted((different | (ours.keys() ^ theirs.keys())) - set(random))


# ---- what must hold


NEGATIVE_ZERO = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_a_flax_folder_converted_under_transformers_5_opens_there(found, name) -> None:
    result = found[name]
    assert "failed" not in result, result["failed"]
    assert result["info"] == NEGATIVE_ZERO
    assert result["tensors"] > 10
    assert result["different"] == []
    assert result["difference"] <= 1e-5
    assert result["auto"] == result["auto_expected"]
    assert result["auto_different"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_same_folder_opens_with_transformers_4(found, name) -> None:
    import torch
    import transformers

    assert "failed" not in found[name], found[name]["failed"]
    case = next(case for case in CASES if case.name == name)
    own = getattr(transformers, case.model)
    model, info = own.from_pretrained(found[name]["folder"] / "made", output_loading_info=True)
    assert plain(info) == NEGATIVE_ZERO
    reference = own.from_pretrained(found[name]["folder"] / "torch").state_dict()
    state = model.state_dict()
    assert list(state) == list(reference)
    assert [key for key in state if not torch.equal(state[key], reference[key])] == []


if __name__ == "__main__":
    main(Path(sys.argv[1]))

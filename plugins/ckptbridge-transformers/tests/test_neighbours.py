"""Encoders out of whole models, LongT5, and what loading logs, next to transformers itself."""

import contextlib
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from support.compat_models import pair, randomise, same_state, zeroed
from support.errors import refused
from transformers import modeling_flax_pytorch_utils
from zoo.harness import old_clip

from bridge_core import UsageError
from ckptbridge_transformers import compat

FLAX, TORCH = "transformers.modeling_flax_utils", "transformers.modeling_flax_pytorch_utils"
SIZES = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 3,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*number that is not writable:UserWarning"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
    pytest.mark.filterwarnings("ignore:for .*no-op:UserWarning"),
]


@pytest.fixture(autouse=True)
def clip():
    with old_clip():
        yield


@pytest.fixture
def records():
    """Collect what the two modules log, at every level."""
    found = []
    handler = logging.Handler(logging.INFO)
    handler.emit = found.append
    loggers = [logging.getLogger(name) for name in (FLAX, TORCH)]
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_info()
    for logger in loggers:
        logger.addHandler(handler)
    yield found
    transformers.logging.set_verbosity(verbosity)
    for logger in loggers:
        logger.removeHandler(handler)


def both(records, action, *, only):
    """Run an action without and with our functions; return what each logged that starts with these words.

    Lists of names are left out: the originals are in any order.
    """
    found = []
    for place in (contextlib.nullcontext, compat.installed):
        records.clear()
        with place():
            action()
        told = [(r.name, r.levelname, re.sub(r"[\[{].*?[\]}](?=\n)", "...", r.getMessage())) for r in records]
        found.append([each for each in told if each[2].startswith(only)])
    return found


KINDS = (
    "Some weights",
    "All ",
    "loading weights file",
    "Loading Flax weights",
    "Generation config",
    "The arg",
)


@pytest.mark.slow
def test_flax_messages_are_the_originals(tmp_path, records):
    _, flax_class, config = pair("bert")
    model = zeroed(flax_class, config)
    model.save_pretrained(tmp_path / "exact")
    base = zeroed(transformers.FlaxBertModel, config)
    base.save_pretrained(tmp_path / "base")

    def exact():
        flax_class.from_pretrained(tmp_path / "exact", trust_remote_code=True)

    def another_task():
        flax_class.from_pretrained(tmp_path / "base")
        transformers.FlaxBertForMaskedLM.from_pretrained(tmp_path / "exact")

    def other_shapes():
        flax_class.from_pretrained(tmp_path / "exact", num_labels=5, ignore_mismatched_sizes=True)

    for action in (exact, another_task):
        original, ours = both(records, action, only=KINDS)
        assert ours == original
    original, ours = both(records, other_shapes, only=KINDS)
    untrue = [each for each in original if each[2].startswith("All model checkpoint weights were used")]
    assert len(untrue) == 1
    assert [each[:2] for each in ours] == [each[:2] for each in original if each not in untrue]
    assert "- ('classifier', 'bias'): found shape (2,) in the checkpoint and (5,)" in ours[-1][2]


@pytest.mark.slow
def test_half_precision_is_logged_as_by_the_original(tmp_path, records):
    _, flax_class, config = pair("bert")
    model = zeroed(flax_class, config)
    model.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), model.params)
    model.save_pretrained(tmp_path)
    original, ours = both(records, lambda: flax_class.from_pretrained(tmp_path), only="Some of the weights")
    assert [text.partition("\n")[0] for *_, text in ours] == [
        text.partition("\n")[0] for *_, text in original
    ]
    assert len(ours) == 1


@pytest.mark.parametrize(
    ("made", "loaded"), [("Model", "Model"), ("Model", "ForMaskedLM"), ("ForMaskedLM", "Model")]
)
def test_torch_messages_are_the_originals(made, loaded, tmp_path, records):
    _, _, config = pair("bert")
    config._attn_implementation = "eager"
    flax = zeroed(getattr(transformers, f"FlaxBert{made}"), config)
    flax.save_pretrained(tmp_path)
    model = getattr(transformers, f"Bert{loaded}")(config)

    def load():
        modeling_flax_pytorch_utils.load_flax_checkpoint_in_pytorch_model(
            model, str(tmp_path / "flax_model.msgpack")
        )

    original, ours = both(records, load, only=KINDS)
    assert ours == original
    assert [level for _, level, _ in ours] == ["INFO", "WARNING", "WARNING"]


def test_what_the_model_computes_is_no_alarm(tmp_path, records):
    """The original says that MarianModel's tables of positions must be trained."""
    config = transformers.MarianConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, max_position_embeddings=12,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8,
        pad_token_id=39, decoder_start_token_id=39,
    )  # fmt: skip
    zeroed(transformers.FlaxMarianModel, config).save_pretrained(tmp_path)
    original, ours = both(
        records, lambda: transformers.MarianModel.from_pretrained(tmp_path, from_flax=True), only=KINDS
    )
    assert any("newly initialized" in text for *_, text in original)
    assert not any("newly initialized" in text for *_, text in ours)
    assert [text.partition("MarianModel")[0] for *_, text in ours][-2:] == [
        "All Flax model weights were used when initializing ",
        "All the weights of ",
    ]
    own = [record.getMessage() for record in records if "computes or does not use" in record.getMessage()]
    assert "decoder.embed_positions.weight (the Flax class computes this table)" in own[0]


def t5_config(stem, **options):
    return getattr(transformers, f"{stem}Config")(**{**SIZES, **options})


ENCODERS = ("EncoderModel", "Model", "ForConditionalGeneration")
FORMS = {"safe": {}, "bin": {"safe_serialization": False}}


@pytest.mark.parametrize("stem", ["T5", pytest.param("MT5", marks=pytest.mark.slow)])
def test_encoder_out_of_a_whole_model_both_ways(stem, tmp_path):
    config = t5_config(stem)
    source = randomise(getattr(transformers, f"{stem}Model")(config))
    source.save_pretrained(tmp_path / "torch")
    torch_class, flax_class = (getattr(transformers, f"{name}{stem}EncoderModel") for name in ("", "Flax"))
    with compat.installed():
        model = flax_class.from_pretrained(tmp_path / "torch", from_pt=True)
        model.save_pretrained(tmp_path / "flax")
        back = torch_class.from_pretrained(tmp_path / "flax", from_flax=True)
    assert same_state(back.get_encoder().state_dict(), source.get_encoder().state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["T5", "MT5"])
def test_encoder_out_of_every_folder_of_its_family(stem, tmp_path):
    """Both ways, from the encoder's folder and the whole model's, in both forms."""
    config = t5_config(stem)
    ids = np.arange(2, 10)[None]
    for head in ENCODERS:
        source = randomise(getattr(transformers, f"{stem}{head}")(config).eval())
        wanted = source.get_encoder().state_dict()
        folder = tmp_path / head
        for form, options in FORMS.items():
            source.save_pretrained(folder / form, **options)
            with compat.installed():
                model = getattr(transformers, f"Flax{stem}EncoderModel").from_pretrained(
                    folder / form, from_pt=True
                )
                model.save_pretrained(folder / form / "flax")
                back = getattr(transformers, f"{stem}EncoderModel").from_pretrained(
                    folder / form / "flax", from_flax=True
                )
            assert same_state(back.get_encoder().state_dict(), wanted)
        with torch.no_grad():
            expected = source.get_encoder()(torch.from_numpy(ids)).last_hidden_state.numpy()
        assert np.abs(np.asarray(model(ids).last_hidden_state) - expected).max() < 1e-5
        with compat.installed():
            flax_class = getattr(transformers, f"Flax{stem}{head}")
            flax_class.from_pretrained(folder / "safe", from_pt=True).save_pretrained(folder / "whole")
            encoder = getattr(transformers, f"{stem}EncoderModel").from_pretrained(
                folder / "whole", from_flax=True
            )
        assert same_state(encoder.get_encoder().state_dict(), wanted)


@pytest.mark.parametrize("safe", [False, True])
def test_longt5_and_its_loading_info(safe, tmp_path):
    """LongT5's own `from_pretrained` reads a `loading_info` that transformers does not give for Flax."""
    config = t5_config("LongT5", local_radius=3, tie_word_embeddings=False)
    source = randomise(transformers.LongT5Model(config).eval())
    source.save_pretrained(tmp_path / "torch")
    flax = transformers.FlaxLongT5Model
    with compat.installed():
        flax.from_pretrained(tmp_path / "torch", from_pt=True).save_pretrained(
            tmp_path / "flax", safe_serialization=safe
        )
    with pytest.raises((AttributeError, KeyError)):
        transformers.LongT5Model.from_pretrained(tmp_path / "flax", from_flax=not safe)
    with compat.installed():
        model = transformers.LongT5Model.from_pretrained(tmp_path / "flax", from_flax=not safe)
        assert same_state(model.state_dict(), source.state_dict())
        head, info = transformers.LongT5ForConditionalGeneration.from_pretrained(
            tmp_path / "flax", from_flax=not safe, output_loading_info=True
        )
        # LongT5's own method would tie the missing head to the embeddings.
        assert info == {
            "missing_keys": ["lm_head.weight"],
            "unexpected_keys": [],
            "mismatched_keys": [],
            "error_msgs": [],
        }
        assert not torch.equal(head.lm_head.weight, head.shared.weight)
        _, of_torch = transformers.LongT5Model.from_pretrained(tmp_path / "torch", output_loading_info=True)
        assert of_torch["missing_keys"] == ["decoder.embed_tokens.weight", "encoder.embed_tokens.weight"]


def test_loading_info_of_other_models(tmp_path):
    _, flax_class, config = pair("bert")
    zeroed(flax_class, config).save_pretrained(tmp_path)
    _, info = transformers.BertModel.from_pretrained(tmp_path, from_flax=True, output_loading_info=True)
    assert info is None
    with compat.installed():
        _, info = transformers.BertModel.from_pretrained(tmp_path, from_flax=True, output_loading_info=True)
    assert sorted(info["unexpected_keys"]) == ["classifier.bias", "classifier.kernel"]


def test_tensors_of_a_meta_model_that_its_class_does_not_make(tmp_path):
    """A tensor that someone put into the model on the meta device cannot be computed, and is refused."""
    model, flax_class, config = pair("bert")
    params = compat.convert_pytorch_state_dict_to_flax(model.state_dict(), flax_class(config, _do_init=False))
    with torch.device("meta"):
        empty = type(model)(config)
        empty.own = torch.ones(3)
    with refused(UsageError, "own", hint="not on the meta device"):
        compat.load_flax_weights_in_pytorch_model(empty, params)

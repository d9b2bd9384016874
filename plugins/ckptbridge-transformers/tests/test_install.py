"""transformers with our functions in place: every kind of folder loads, and what is saved loads again.

Where the library by itself fails, a test shows that first.
"""

import inspect
import itertools
import json
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.compat_models import (
    FAMILIES,
    alarms,
    assert_same_tree,
    flat,
    pair,
    same_state,
    warnings_of,
    zeroed,
)
from support.errors import refused
from transformers import modeling_flax_pytorch_utils, modeling_flax_utils, modeling_utils

from bridge_core import BridgeError, UsageError, open_state
from ckptbridge_transformers import compat
from ckptbridge_transformers.classes import library

SMALL = "2KB"
FORMS = {
    "one": {},
    "shards": {"max_shard_size": SMALL},
    "bin": {"safe_serialization": False},
    "bin-shards": {"safe_serialization": False, "max_shard_size": SMALL},
}

FAST_LOADS = (("bert", "shards", True), ("bert", "one", False), ("resnet-basic", "bin-shards", False))
FAST_FAMILIES = ("bert", "resnet-basic")
FAST_SAVES = (("gpt2", True, SMALL), ("resnet-basic", False, SMALL))


def parameters(fast, *choices):
    """Return every combination, all but the fast ones marked as slow."""
    made = itertools.product(*choices)
    return [pytest.param(*each, marks=() if each in fast else pytest.mark.slow) for each in made]


LOADS = parameters(FAST_LOADS, FAST_FAMILIES, FORMS, (True, False))
SAVES = parameters(FAST_SAVES, ("gpt2", "resnet-basic"), (True, False), ("10GB", SMALL))


@pytest.fixture
def installed():
    with compat.installed():
        yield


@pytest.fixture
def nothing_random(monkeypatch):
    """Make every initialiser fail that is really run, and not only traced."""

    def refuse(key, *args, **kwargs):
        assert isinstance(key, jax.core.Tracer), "random weights are made"
        return original(key, *args, **kwargs)

    original = jax.random.normal
    monkeypatch.setattr(jax.random, "normal", refuse)


def saved(family, folder, form="one", **options):
    model, flax_class, config = pair(family, **options)
    model.save_pretrained(folder, **FORMS[form])
    return model, flax_class, config


def wanted_params(model, flax_class, config):
    return compat.convert_pytorch_state_dict_to_flax(model.state_dict(), flax_class(config, _do_init=False))


def same_but_counters(found, wanted):
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    return same_state(*({name: state[name] for name in names} for state in (found, wanted)))


def original_fails(family, folder, error, match, **options):
    with pytest.raises(error, match=match):
        pair(family)[1].from_pretrained(folder, **options)


@pytest.mark.usefixtures("installed", "nothing_random")
@pytest.mark.parametrize(("family", "form", "do_init"), LOADS)
def test_every_form_of_a_torch_checkpoint(family, form, do_init, tmp_path):
    model, flax_class, config = saved(family, tmp_path, form)
    with warnings_of() as told:
        loaded = flax_class.from_pretrained(tmp_path, from_pt=True, _do_init=do_init)
    flax_model, params = (loaded, loaded.params) if do_init else loaded
    assert type(flax_model) is flax_class
    assert_same_tree(params, wanted_params(model, flax_class, config))
    assert told == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("family", parameters([("resnet-basic",)], FAMILIES))
def test_outputs_of_every_family(family, tmp_path):
    model, flax_class, _ = saved(family, tmp_path)
    flax_model = flax_class.from_pretrained(tmp_path)
    if "resnet" in family:
        given = {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)}
    else:
        given = {"input_ids": np.array([[5, 6, 7, 8]]), "attention_mask": np.ones((1, 4), np.int64)}
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    found = np.asarray(flax_model(**given).logits)
    assert np.abs(found - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


def test_original_cannot_load_shards_or_without_init(tmp_path):
    saved("bert", tmp_path / "shards", "shards")
    saved("bert", tmp_path / "one")
    original_fails("bert", tmp_path / "shards", NotImplementedError, "sharded", from_pt=True)
    original_fails("bert", tmp_path / "one", ValueError, "_do_init", from_pt=True, _do_init=False)


@pytest.mark.slow
def test_original_warns_of_good_loads(tmp_path):
    _, flax_class, _ = saved("gpt2", tmp_path, "bin")
    with warnings_of() as told:
        flax_class.from_pretrained(tmp_path, from_pt=True)
    assert any("were not used when initializing" in text for text in told)
    with compat.installed(), warnings_of() as told:
        flax_class.from_pretrained(tmp_path, from_pt=True)
    assert told == []


@pytest.mark.slow
def test_tied_head_of_a_safetensors_file(tmp_path):
    model, flax_class, config = saved("llama", tmp_path)
    with compat.installed(), warnings_of() as told:
        params = flax_class.from_pretrained(tmp_path).params
    assert told == []
    assert_same_tree(params, wanted_params(model, flax_class, config))
    assert np.array_equal(params["lm_head"]["kernel"], params["model"]["embed_tokens"]["embedding"].T)
    with warnings_of() as told:
        wrong = flax_class.from_pretrained(tmp_path).params
    assert "lm_head" in told[-1]
    assert not np.array_equal(wrong["lm_head"]["kernel"], params["lm_head"]["kernel"])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_of_weights_is_kept(dtype, tmp_path):
    model, flax_class, _ = pair("bert")
    model.to(dtype).save_pretrained(tmp_path)
    with warnings_of() as told:
        flax_model = flax_class.from_pretrained(tmp_path, dtype=jnp.bfloat16)
    name = str(dtype).removeprefix("torch.")
    assert {str(leaf.dtype) for leaf in flat(flax_model.params).values()} == {name}
    assert flax_model.dtype == jnp.bfloat16
    assert len(told) == 1
    assert name in told[0]
    flax_model.save_pretrained(tmp_path / "flax")
    back = type(model).from_pretrained(tmp_path / "flax", from_flax=True)
    assert same_state(back.state_dict(), model.state_dict())


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_missing_weights_alone_are_initialised(tmp_path):
    base, _, _ = saved("bert", tmp_path, torch_class="BertModel")
    flax_class = transformers.FlaxBertForMaskedLM
    with warnings_of() as told:
        flax_model = flax_class.from_pretrained(tmp_path)
    initial = flat(flax_class(flax_model.config).params)
    found = flat(flax_model.params)
    head = {key: leaf for key, leaf in found.items() if key[0] == "cls"}
    assert len(head) == 5
    for key, leaf in head.items():
        assert leaf.dtype == initial[key].dtype
        assert np.allclose(leaf, initial[key], atol=1e-6), key
    words = base.embeddings.word_embeddings.weight.detach()
    assert np.array_equal(found["bert", "embeddings", "word_embeddings", "embedding"], words)
    assert len(told) == 2
    assert "[('pooler', 'dense', 'bias'), ('pooler', 'dense', 'weight')]" in told[0]
    assert "newly initialized: [('cls', 'predictions', 'bias')" in told[1]


@pytest.mark.usefixtures("installed")
def test_missing_weights_without_init(tmp_path):
    saved("bert", tmp_path, torch_class="BertModel")
    flax_class = transformers.FlaxBertForMaskedLM
    with warnings_of() as told:
        model, params = flax_class.from_pretrained(tmp_path, _do_init=False)
    assert "Make sure to call model.init_weights" in told[0]
    assert not any("newly initialized" in text for text in told)
    assert "cls" not in params
    full = jax.eval_shape(lambda: model.init_weights(model.key, model.input_shape, params))
    assert set(flat(full)) == set(flat(model.params_shape_tree))
    assert not flax_class._missing_keys
    with pytest.raises(ValueError, match="_do_init"):
        model.params  # noqa: B018


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("do_init", [True, False])
def test_other_shapes(do_init, tmp_path):
    model, flax_class, _ = saved("bert", tmp_path)
    with refused(compat.WrongWeights, "classifier") as caught:
        flax_class.from_pretrained(tmp_path, num_labels=5)
    assert isinstance(caught.value, ValueError)
    with warnings_of() as told:
        loaded = flax_class.from_pretrained(
            tmp_path, num_labels=5, ignore_mismatched_sizes=True, _do_init=do_init
        )
    found = flat(loaded.params if do_init else loaded[1])
    assert (("classifier", "kernel") in found) == do_init
    if do_init:
        assert found["classifier", "kernel"].shape == (16, 5)
    words = model.bert.embeddings.word_embeddings.weight.detach()
    assert np.array_equal(found["bert", "embeddings", "word_embeddings", "embedding"], words)
    (alarm,) = told
    assert "shapes did not match:\n- ('classifier', 'bias'): found shape (2,) in the checkpoint" in alarm
    assert ("newly initialized" in alarm) == do_init


@pytest.mark.usefixtures("installed")
def test_config_and_subfolder_and_single_file(tmp_path):
    model, flax_class, config = saved("bert", tmp_path / "deep" / "inner")
    wanted = wanted_params(model, flax_class, config)
    inner = flax_class.from_pretrained(str(tmp_path / "deep"), subfolder="inner")
    assert_same_tree(inner.params, wanted)
    file = tmp_path / "deep" / "inner" / "model.safetensors"
    assert_same_tree(flax_class.from_pretrained(file, config=config).params, wanted)
    apart = flax_class.from_pretrained(
        file, config=str(tmp_path / "deep" / "inner"), seed=3, input_shape=(1, 2)
    )
    assert_same_tree(apart.params, wanted)
    assert apart.input_shape == (1, 2)
    assert_same_tree(flax_class.from_pretrained(file, jnp.float32, (1, 3), config=config).params, wanted)
    auto = transformers.FlaxAutoModelForSequenceClassification.from_pretrained(tmp_path / "deep" / "inner")
    assert type(auto) is flax_class
    assert_same_tree(auto.params, wanted)


@pytest.mark.usefixtures("installed")
def test_generation_config_is_kept(tmp_path):
    model, flax_class, _ = pair("gpt2")
    model.generation_config.max_length = 7
    model.save_pretrained(tmp_path / "torch")
    flax_model = flax_class.from_pretrained(tmp_path / "torch")
    assert flax_model.generation_config.max_length == 7
    flax_model.generation_config.max_length = 9
    flax_model.save_pretrained(tmp_path / "flax")
    assert flax_class.from_pretrained(tmp_path / "flax").generation_config.max_length == 9
    back = type(model).from_pretrained(tmp_path / "flax", from_flax=True)
    assert back.generation_config.max_length == 9


@pytest.mark.usefixtures("installed")
def test_name_on_the_hub_that_is_in_the_cache(tmp_path):
    model, flax_class, config = saved("bert", tmp_path / "made", "shards")
    home = tmp_path / "cache" / "models--someone--tiny"
    snapshot = home / "snapshots" / ("0" * 40)
    (home / "blobs").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    for path in (tmp_path / "made").iterdir():
        shutil.move(path, home / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", path.name))
    found = flax_class.from_pretrained(
        "someone/tiny", cache_dir=tmp_path / "cache", local_files_only=True, from_pt=True
    )
    assert_same_tree(found.params, wanted_params(model, flax_class, config))


@pytest.mark.usefixtures("installed")
def test_folders_that_cannot_be_loaded(tmp_path):
    _, flax_class, config = saved("bert", tmp_path / "bin", "bin")
    with refused(compat.UnreadableWeights, hint=("pytorch_model.bin", "from_pt=True")) as caught:
        flax_class.from_pretrained(tmp_path / "bin")
    assert isinstance(caught.value, OSError)
    config.save_pretrained(tmp_path / "empty")
    with refused(
        compat.UnreadableWeights, str(tmp_path / "empty"), "flax_model.msgpack", "model.safetensors"
    ):
        flax_class.from_pretrained(tmp_path / "empty")
    zeroed(flax_class, config).save_pretrained(tmp_path / "flax")
    with refused(compat.UnreadableWeights, hint=("flax_model.msgpack", "from_pt=False")):
        flax_class.from_pretrained(tmp_path / "flax", from_pt=True)
    saved("bert", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 64)
    with refused(compat.UnreadableWeights, str(tmp_path / "broken" / "model.safetensors")):
        flax_class.from_pretrained(tmp_path / "broken")


@pytest.mark.usefixtures("installed")
def test_another_framework_or_another_model_is_refused(tmp_path):
    _, flax_class, config = saved("bert", tmp_path / "tf")
    file = tmp_path / "tf" / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "tf"})
    with refused(compat.UnreadableWeights, "PyTorch or Flax", "got those of tf", hint="save_pretrained"):
        flax_class.from_pretrained(tmp_path / "tf")
    saved("gpt2", tmp_path / "other")
    with refused(compat.WrongWeights, flax_class.__name__, "transformer.h"):
        flax_class.from_pretrained(tmp_path / "other", config=config)


@pytest.mark.parametrize(("family", "safe", "size"), SAVES)
def test_saved_models_load_in_both_frameworks(family, safe, size, tmp_path, installed, nothing_random):
    model, flax_class, _ = saved(family, tmp_path / "torch")
    flax_model = flax_class.from_pretrained(tmp_path / "torch")
    flax_model.save_pretrained(tmp_path / "flax", safe_serialization=safe, max_shard_size=size)
    names = sorted(path.name for path in (tmp_path / "flax").iterdir() if "model" in path.name)
    stem, suffix = ("model", "safetensors") if safe else ("flax_model", "msgpack")
    if size == SMALL:
        assert len(names) > 2
        assert all(name.startswith(f"{stem}-") or name == f"{stem}.{suffix}.index.json" for name in names)
        assert_no_empty_shard(tmp_path / "flax", names)
    else:
        assert names == [f"{stem}.{suffix}"]
    with warnings_of() as told:
        again = flax_class.from_pretrained(tmp_path / "flax")
        back = type(model).from_pretrained(tmp_path / "flax", from_flax=True)
    assert alarms(told) == []
    assert_same_tree(again.params, flax_model.params)
    assert same_but_counters(back.state_dict(), model.state_dict())
    assert not back.training


def assert_no_empty_shard(folder, names):
    for name in names:
        if not name.endswith(".json"):
            with open_state(folder / name) as shard:
                assert len(shard), name


@pytest.mark.slow
def test_original_reads_what_is_saved(tmp_path):
    model, flax_class, config = pair("bert")
    flax_model = zeroed(flax_class, config)
    flax_model.params = wanted_params(model, flax_class, config)
    with compat.installed():
        for name, options in {"one": {}, "shards": {"max_shard_size": SMALL}, "safe": {}}.items():
            flax_model.save_pretrained(tmp_path / name, safe_serialization=name == "safe", **options)
    with safe_open(tmp_path / "safe" / "model.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "flax"
    for name in ("one", "shards", "safe"):
        _, params = flax_class.from_pretrained(tmp_path / name, _do_init=False)
        assert_same_tree(params, flax_model.params)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_original_leaves_torch_models_empty(tmp_path):
    model, flax_class, config = pair("bert")
    with compat.installed():
        flax_model = zeroed(flax_class, config)
        flax_model.params = wanted_params(model, flax_class, config)
        flax_model.save_pretrained(tmp_path)
        right = type(model).from_pretrained(tmp_path, from_flax=True)
    assert same_state(right.state_dict(), model.state_dict())
    with pytest.warns(UserWarning, match="no-op"), warnings_of() as told:
        wrong = type(model).from_pretrained(tmp_path, from_flax=True)
    assert any(value.is_meta for value in wrong.state_dict().values())
    assert any("All the weights" in text for text in told)


def test_sharded_safetensors_are_safetensors(tmp_path):
    _, flax_class, config = pair("bert")
    model = zeroed(flax_class, config)
    model.save_pretrained(tmp_path / "old", safe_serialization=True, max_shard_size=SMALL)
    assert not list((tmp_path / "old").glob("*.safetensors"))
    assert list((tmp_path / "old").glob("*.msgpack"))
    with compat.installed():
        model.save_pretrained(tmp_path / "new", safe_serialization=True, max_shard_size=SMALL)
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 2
    assert not list((tmp_path / "new").glob("*.msgpack"))


def test_nothing_stale_stays(tmp_path):
    _, flax_class, config = pair("bert")
    model = zeroed(flax_class, config)
    for name, limit in (("old", "2KB"), ("old", "4KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=limit)
    listed = set(
        json.loads((tmp_path / "old" / "flax_model.msgpack.index.json").read_text())["weight_map"].values()
    )
    shards = {path.name for path in (tmp_path / "old").glob("*.msgpack")}
    model.save_pretrained(tmp_path / "old")
    assert shards > listed or (tmp_path / "old" / "flax_model.msgpack.index.json").exists()
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"torch's own")
    (folder / "notes.txt").write_text("kept")
    with compat.installed():
        for options in (
            {"max_shard_size": "2KB"},
            {"max_shard_size": "4KB"},
            {"safe_serialization": True, "max_shard_size": "4KB"},
            {"safe_serialization": True},
            {"max_shard_size": "2KB"},
            {},
        ):
            model.save_pretrained(folder, **options)
            files = {path.name for path in folder.iterdir()}
            weights = {name for name in files if name.endswith((".msgpack", ".safetensors"))}
            index = [name for name in files if name.endswith(".index.json")]
            assert bool(index) == ("max_shard_size" in options)
            for name in index:
                listed = json.loads((folder / name).read_text())["weight_map"]
                assert set(listed.values()) == weights
            assert len(weights) == 1 or index
            assert files - weights - {*index} == {"config.json", "notes.txt", "pytorch_model.bin"}
            assert_same_tree(flax_class.from_pretrained(folder).params, model.params)


def test_weights_of_torch_beside_msgpack_stay(tmp_path):
    model, flax_class, config = saved("bert", tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with compat.installed():
        zeroed(flax_class, config).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert same_state(type(model).from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_no_shard_is_empty(tmp_path):
    _, flax_class, config = pair("gpt2", vocab_size=4000)
    model = zeroed(flax_class, config)
    tree = model.params["transformer"]
    model.params = {"transformer": {"wte": tree["wte"], **tree}}
    model.save_pretrained(tmp_path / "old", max_shard_size=SMALL)
    first = next((tmp_path / "old").glob("flax_model-00001-of-*"))
    assert first.stat().st_size < 4
    with compat.installed():
        model.save_pretrained(tmp_path / "new", max_shard_size=SMALL)
        assert_no_empty_shard(tmp_path / "new", [path.name for path in (tmp_path / "new").glob("*.msgpack")])


@pytest.mark.usefixtures("installed")
def test_saving_given_params_and_into_a_file(tmp_path):
    source, flax_class, config = pair("bert")
    model, params = flax_class(config, _do_init=False), wanted_params(source, flax_class, config)
    model.save_pretrained(tmp_path / "made", params=params)
    assert_same_tree(flax_class.from_pretrained(tmp_path / "made").params, params)
    assert json.loads((tmp_path / "made" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
    (tmp_path / "file").write_text("")
    with refused(UsageError, str(tmp_path / "file"), "a folder", "a file"):
        model.save_pretrained(tmp_path / "file", params=params)


@pytest.mark.usefixtures("installed")
def test_failed_save_leaves_the_old_weights(tmp_path, monkeypatch):
    source, flax_class, config = pair("bert")
    model, params = flax_class(config, _do_init=False), wanted_params(source, flax_class, config)
    model.save_pretrained(tmp_path, params=params)
    broken = {**params, "classifier": {**params["classifier"], "bias": np.array(["text"])}}
    with pytest.raises(BridgeError):
        model.save_pretrained(tmp_path, params=broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "flax_model.msgpack"]
    assert_same_tree(flax_class.from_pretrained(tmp_path).params, params)


@pytest.mark.usefixtures("installed")
def test_upload_gets_the_folder(tmp_path, monkeypatch):
    _, flax_class, config = pair("bert")
    calls = []
    monkeypatch.setattr(
        flax_class, "_create_repo", lambda self, repo, **kw: calls.append((repo, kw)) or "me/it"
    )
    monkeypatch.setattr(
        flax_class, "_upload_modified_files", lambda self, *args, **kw: calls.append((args, kw))
    )
    zeroed(flax_class, config).save_pretrained(
        tmp_path / "it", push_to_hub=True, token="t", commit_message="new", private=True
    )
    assert calls[0] == ("it", {"private": True, "token": "t"})
    assert calls[1] == ((str(tmp_path / "it"), "me/it", {}), {"commit_message": "new", "token": "t"})


@pytest.mark.usefixtures("installed")
def test_old_name_of_the_token(tmp_path):
    _, flax_class, _ = saved("bert", tmp_path)
    with pytest.warns(FutureWarning, match="token"):
        flax_class.from_pretrained(tmp_path, use_auth_token="t")
    with pytest.warns(FutureWarning, match="token"), pytest.raises(ValueError, match="use_auth_token"):
        flax_class.from_pretrained(tmp_path, use_auth_token="t", token="u")


PLACES = [
    *((modeling_flax_pytorch_utils, name) for name in compat.__all__ if "_" in name),
    (modeling_flax_utils, "load_pytorch_checkpoint_in_flax_state_dict"),
    (modeling_flax_utils.FlaxPreTrainedModel, "from_pretrained"),
    (modeling_flax_utils.FlaxPreTrainedModel, "save_pretrained"),
    (modeling_utils.PreTrainedModel, "_load_from_flax"),
    (modeling_utils, "_get_resolved_checkpoint_files"),
]


def standing():
    return [inspect.getattr_static(owner, name) for owner, name in PLACES]


def test_install_and_uninstall():
    before = standing()
    first = compat.install()
    try:
        inside = standing()
        assert all(new is not old for new, old in zip(inside, before, strict=True))
        assert compat.install() is first
        assert all(new is old for new, old in zip(standing(), inside, strict=True))
        with compat.installed() as same:
            assert same is first
        assert first.active
    finally:
        first.uninstall()
    first.uninstall()
    assert not first.active
    assert all(new is old for new, old in zip(standing(), before, strict=True))
    with compat.install() as second:
        assert second is not first
        first.uninstall()
        assert second.active
    assert all(new is old for new, old in zip(standing(), before, strict=True))


def test_signatures_are_the_originals():
    before = [list(inspect.signature(getattr(*place)).parameters) for place in PLACES]
    with compat.installed():
        assert [list(inspect.signature(getattr(*place)).parameters) for place in PLACES] == before


def test_two_threads_install_once():
    found = []
    threads = [threading.Thread(target=lambda: found.append(compat.install())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found[0].uninstall()
    assert len({id(one) for one in found}) == 1


@pytest.mark.parametrize("release", ["5.0.0", "4.56.2", "4.58.0"])
def test_other_releases_are_refused(release, monkeypatch):
    before = standing()
    monkeypatch.setattr(library(), "__version__", release)
    with refused(UsageError, f"transformers {release}", "transformers 4.57", hint="transformers==4.57"):
        compat.install()
    assert all(new is old for new, old in zip(standing(), before, strict=True))


@pytest.mark.parametrize("gone", [True, False])
def test_a_changed_library_is_refused(gone, monkeypatch):
    if gone:
        monkeypatch.delattr(modeling_utils.PreTrainedModel, "_load_from_flax")
    else:
        monkeypatch.setattr(
            modeling_utils.PreTrainedModel, "_load_from_flax", classmethod(lambda cls, model: model)
        )
    with refused(UsageError, "1 functions", "PreTrainedModel._load_from_flax", hint="transformers==4.57"):
        compat.install()

"""The old functions: equal to the originals where these were right, right or refusing where they were not.

Each fault of an original is shown by the original itself first, as the control of the test.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers.modeling_flax_pytorch_utils as old
from flax.core import freeze
from support.compat_models import (
    FAMILIES,
    FlaxOddModel,
    alarms,
    assert_same_tree,
    flat,
    odd_gap,
    odd_pair,
    pair,
    randomise,
    same_state,
    warnings_of,
    zeroed,
)
from support.errors import refused

from bridge_core import AmbiguousLayerError, BridgeError
from ckptbridge_transformers import compat

GOOD = ("bert", "gpt2", "resnet", "bart")
GOOD_OR_SLOW = [pytest.param(n, marks=() if n in ("gpt2", "resnet") else pytest.mark.slow) for n in GOOD]
TIED = {"bart": 3, "gpt2": 1}
"""How many tied tensors of a live state dict the original keeps as unexpected."""


def converted(state_dict, model):
    return compat.convert_pytorch_state_dict_to_flax(state_dict, model)


def old_load(model, params):
    """Run the original, which hands torch arrays that cannot be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return old.load_flax_weights_in_pytorch_model(model, params)


def flax_params(family, **options):
    model, flax_class, config = pair(family, **options)
    return model, converted(model.state_dict(), flax_class(config, _do_init=False))


@pytest.mark.parametrize("family", GOOD_OR_SLOW)
def test_torch_to_flax_as_the_original(family):
    model, flax_class, config = pair(family)
    state_dict = model.state_dict()
    wanted = flat(old.convert_pytorch_state_dict_to_flax(dict(state_dict), zeroed(flax_class, config)))
    found = flat(converted(state_dict, flax_class(config, _do_init=False)))
    assert len(set(wanted) - set(found)) == TIED.get(family, 0)
    assert_same_tree(found, {key: leaf for key, leaf in wanted.items() if key in found})
    assert {type(leaf) for leaf in found.values()} == {type(jnp.zeros(1))}


@pytest.mark.parametrize("family", GOOD_OR_SLOW)
def test_flax_to_torch_as_the_original(family):
    source, params = flax_params(family)
    models = [randomise(type(source)(source.config), seed=1) for _ in range(2)]
    old_load(models[0], params)
    assert compat.load_flax_weights_in_pytorch_model(models[1], params) is models[1]
    statistics = [name for name in source.state_dict() if name.endswith("num_batches_tracked")]
    found, wanted = (
        {k: v for k, v in m.state_dict().items() if k not in statistics} for m in reversed(models)
    )
    assert same_state(found, wanted)
    assert same_state(found, {name: source.state_dict()[name] for name in found})


RENAMED = [
    (("ln", "weight"), {("ln", "scale")}),
    (("ln", "gamma"), {("ln", "scale")}),
    (("ln", "gamma"), {("base", "ln", "scale")}),
    (("ln", "gamma"), set()),
    (("ln", "beta"), set()),
    (("bn", "running_mean"), set()),
    (("bn", "running_var"), set()),
    (("bn", "running_var"), {("bn", "running_var")}),
    (("words", "weight"), {("base", "words", "embedding")}),
    (("dense", "weight"), {("dense", "kernel")}),
    (("norm", "weight"), {("norm", "weight")}),
    (("pos", "parametrizations", "weight", "original0"), set()),
    (("pos", "parametrizations", "weight", "original1"), set()),
    (("pos", "weight_g"), set()),
    (("dense", "bias"), {("dense", "bias")}),
]


@pytest.mark.parametrize(("key", "known"), RENAMED)
@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_rename_as_the_original(key, known, shape):
    tensor = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    names = dict.fromkeys(known)
    wanted = old.rename_key_and_reshape_tensor(key, tensor, names, "base")
    found = compat.rename_key_and_reshape_tensor(key, tensor, names, "base")
    assert found[0] == wanted[0]
    assert np.array_equal(found[1], wanted[1])


def test_rename_moves_the_axes_of_a_volume():
    tensor = np.arange(120).reshape(1, 2, 3, 4, 5)
    args = (("conv", "weight"), tensor, {("conv", "kernel")}, "base")
    assert old.rename_key_and_reshape_tensor(*args)[1].shape == (5, 4, 3, 2, 1)
    key, kernel = compat.rename_key_and_reshape_tensor(*args)
    assert key == ("conv", "kernel")
    assert np.array_equal(kernel, tensor.transpose(2, 3, 4, 1, 0))


def test_rename_leaves_names_of_the_model_alone():
    args = (("scaled", "gamma"), np.ones(3), {("scaled", "gamma")}, "base")
    assert old.rename_key_and_reshape_tensor(*args)[0] == ("scaled", "weight")
    assert compat.rename_key_and_reshape_tensor(*args)[0] == ("scaled", "gamma")


def test_layers_and_names_that_were_wrong():
    model, flax_model = odd_pair()
    params = converted(model.state_dict(), flax_model)
    assert odd_gap(model, flax_model, params) < 1e-5
    wrong = flat(
        old.convert_pytorch_state_dict_to_flax(dict(model.state_dict()), zeroed(FlaxOddModel, model.config))
    )
    assert ("params", "gamma") not in wrong
    assert ("params", "variance_floor") not in wrong
    for layer in ("volume", "up"):
        kernel = wrong["params", layer, "kernel"]
        assert kernel.shape == params["params"][layer]["kernel"].shape
        mixed = jax.tree.map(lambda leaf: leaf, params)
        mixed["params"][layer]["kernel"] = kernel
        assert odd_gap(model, flax_model, mixed) > 0.01, layer


def test_what_no_evidence_settles_is_refused():
    model, flax_model = odd_pair()
    params = converted(model.state_dict(), flax_model)
    with refused(AmbiguousLayerError, "up."):
        compat.load_flax_weights_in_pytorch_model(model, params)


def test_basic_blocks():
    model, flax_class, config = pair("resnet-basic")
    wrong = flat(old.convert_pytorch_state_dict_to_flax(dict(model.state_dict()), zeroed(flax_class, config)))
    flax_model = flax_class(config, _do_init=False)
    wanted = set(flat(flax_model.params_shape_tree))
    assert len(wanted - set(wrong)) == 30
    params = converted(model.state_dict(), flax_model)
    assert set(flat(params)) == wanted
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(image)).logits.numpy()
    assert np.abs(flax_model(image, params=params).logits - logits).max() < 1e-5 * np.abs(logits).max()
    back = compat.load_flax_weights_in_pytorch_model(randomise(type(model)(config), seed=1), params)
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    assert same_state(*({name: m.state_dict()[name] for name in names} for m in (back, model)))


def test_callers_dict_is_not_changed():
    model, flax_class, config = pair("bert")
    given = dict(model.state_dict())
    old.convert_pytorch_state_dict_to_flax(given, zeroed(flax_class, config))
    assert not any(isinstance(value, torch.Tensor) for value in given.values())
    given = dict(model.state_dict())
    before = {name: (id(value), value.clone()) for name, value in given.items()}
    converted(given, flax_class(config, _do_init=False))
    assert list(given) == list(before)
    assert all(id(given[n]) == i and torch.equal(given[n], value) for n, (i, value) in before.items())


def test_model_without_weights():
    model, flax_class, config = pair("bert")
    flax_model = flax_class(config, _do_init=False)
    with pytest.raises(ValueError, match="_do_init=False"):
        old.convert_pytorch_state_dict_to_flax(dict(model.state_dict()), flax_model)
    assert set(flat(converted(model.state_dict(), flax_model))) == set(flat(flax_model.params_shape_tree))


def test_prefix_of_a_wrapper():
    model, flax_class, config = pair("bert")
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    flax_model = zeroed(flax_class, config)
    lost = flat(old.convert_pytorch_state_dict_to_flax(dict(wrapped), flax_model))
    assert not set(lost) & set(flat(flax_model.params))
    wanted = converted(model.state_dict(), flax_model)
    assert_same_tree(converted(wrapped, flax_model), wanted)


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model"])
def test_nested_state_dict(name):
    model, flax_class, config = pair("bert")
    flax_model = zeroed(flax_class, config)
    nested = {name: model.state_dict(), "epoch": 3}
    with pytest.raises(AttributeError):
        old.convert_pytorch_state_dict_to_flax(dict(nested), flax_model)
    assert_same_tree(converted(nested, flax_model), converted(model.state_dict(), flax_model))


def test_arrays_of_numpy_and_jax():
    model, flax_class, config = pair("resnet")
    flax_model = flax_class(config, _do_init=False)
    wanted = converted(model.state_dict(), flax_model)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    assert_same_tree(converted(arrays, flax_model), wanted)
    narrow = {n: jnp.asarray(a) for n, a in arrays.items() if a.dtype != np.int64}
    assert_same_tree(converted(narrow, flax_model), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_both_ways(dtype):
    source, flax_class, config = pair("bert")
    source = source.to(dtype)
    params = converted(source.state_dict(), flax_class(config, _do_init=False))
    assert {str(leaf.dtype) for leaf in flat(params).values()} == {str(dtype).removeprefix("torch.")}
    narrow = randomise(type(source)(config), seed=1).to(dtype)
    assert same_state(
        compat.load_flax_weights_in_pytorch_model(narrow, params).state_dict(), source.state_dict()
    )
    with torch.device("meta"):
        empty = type(source)(config)
    assert same_state(
        compat.load_flax_weights_in_pytorch_model(empty, params).state_dict(), source.state_dict()
    )
    wide = randomise(type(source)(config), seed=1)
    compat.load_flax_weights_in_pytorch_model(wide, params)
    assert same_state(wide.state_dict(), source.float().state_dict())


@pytest.mark.slow
def test_original_widens_bfloat16():
    source, flax_class, config = pair("bert")
    params = converted(source.to(torch.bfloat16).state_dict(), flax_class(config, _do_init=False))
    with warnings_of() as told:
        old_load(type(source)(config), params)
    assert "Casting all ``bfloat16``" in told[0]


def test_lossy_load_is_refused():
    source, params = flax_params("bert")
    narrow = type(source)(source.config).to(torch.bfloat16)
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    with refused(compat.LossyLoad, "41 parameters of BertFor", "torch.float32 into", hint="model.float()"):
        compat.load_flax_weights_in_pytorch_model(narrow, params)
    assert same_state(narrow.state_dict(), before)


def test_wide_numbers_are_not_narrowed():
    model, flax_class, config = pair("bert")
    flax_model = zeroed(flax_class, config)
    extra = {"count": torch.tensor([1 << 40]), "limit": torch.tensor([1e300], dtype=torch.float64)}
    with pytest.warns(RuntimeWarning, match="overflow"):
        wrong = old.convert_pytorch_state_dict_to_flax({**model.state_dict(), **extra}, flax_model)
    assert wrong["count"].tolist() == [0]
    assert np.isinf(wrong["limit"]).all()
    found = converted({**model.state_dict(), **extra}, flax_model)
    assert found["count"].tolist() == [1 << 40]
    assert found["limit"].tolist() == [1e300]
    double = {name: value.double() for name, value in model.state_dict().items()}
    params = converted(double, flax_model)
    assert {leaf.dtype for leaf in flat(params).values()} == {np.dtype(np.float64)}


def test_unexpected_tensors_stay_in_the_tree_as_the_original_names_them():
    model, flax_class, config = pair("bert")
    extra = {
        "head.dense.weight": torch.ones(2, 3),
        "head.dense.bias": torch.ones(2),
        "head.conv.weight": torch.ones(2, 3, 1, 4),
        "classifier.more.weight": torch.ones(2, 3),
    }
    given = {**model.state_dict(), **extra}
    wanted = old.convert_pytorch_state_dict_to_flax(dict(given), zeroed(flax_class, config))
    assert_same_tree(converted(given, flax_class(config, _do_init=False)), wanted)


def test_unexpected_tensors_of_a_model_with_statistics():
    model, flax_class, config = pair("resnet")
    extra = {"head.weight": torch.ones(2, 3), "bn.running_mean": torch.ones(2)}
    given = {**model.state_dict(), **extra, "bn.num_batches_tracked": torch.tensor(3)}
    wanted = old.convert_pytorch_state_dict_to_flax(dict(given), zeroed(flax_class, config))
    assert_same_tree(converted(given, flax_class(config, _do_init=False)), wanted)


def test_two_names_for_one_parameter():
    model, flax_class, config = pair("bert")
    name = "bert.embeddings.LayerNorm.weight"
    given = {**model.state_dict(), name.replace("weight", "gamma"): torch.full((16,), 9.0)}
    wrong = old.convert_pytorch_state_dict_to_flax(dict(given), zeroed(flax_class, config))
    assert wrong["bert"]["embeddings"]["LayerNorm"]["scale"][0] == 9
    try:
        found = converted(given, flax_class(config, _do_init=False))
    except BridgeError as err:
        assert "LayerNorm" in str(err)  # noqa: PT017 - refusing is right, too
    else:
        scale = found["bert"]["embeddings"]["LayerNorm"]["scale"]
        assert np.array_equal(scale, model.state_dict()[name])
        assert any(np.all(np.asarray(leaf) == 9) for leaf in flat(found).values())


def test_other_shape_is_a_value_error():
    model = pair("bert")[0]
    _, flax_class, config = pair("bert", num_labels=5)
    wide = flax_class(config, _do_init=False)
    with refused(compat.WrongWeights, "classifier") as caught:
        converted(model.state_dict(), wide)
    assert isinstance(caught.value, ValueError)
    assert len(caught.value.mismatched) == 2


def test_another_models_weights_are_refused():
    model, _, _ = pair("bert")
    _, flax_class, config = pair("resnet")
    flax_model = zeroed(flax_class, config)
    lost = flat(old.convert_pytorch_state_dict_to_flax(dict(model.state_dict()), flax_model))
    assert not set(lost) & set(flat(flax_model.params))
    number = len(model.state_dict())
    with refused(compat.WrongWeights, type(flax_model).__name__, f"{number} tensors", "bert.embeddings"):
        converted(model.state_dict(), flax_model)


def test_something_that_is_no_tensor():
    _, flax_class, config = pair("bert")
    with pytest.raises(BridgeError):
        converted({"a.weight": "text"}, flax_class(config, _do_init=False))


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("family", ["bert", pytest.param("resnet", marks=pytest.mark.slow)])
def test_files_and_shards(family, safe, tmp_path):
    model, flax_class, config = pair(family)
    flax_model = flax_class(config, _do_init=False)
    wanted = converted(model.state_dict(), flax_model)
    load = compat.load_pytorch_checkpoint_in_flax_state_dict
    model.save_pretrained(tmp_path / "one", safe_serialization=safe)
    (single,) = [path for path in (tmp_path / "one").iterdir() if path.suffix != ".json"]
    assert_same_tree(load(flax_model, str(single), False), wanted)
    model.save_pretrained(tmp_path / "many", safe_serialization=safe, max_shard_size="2KB")
    shards = sorted(str(path) for path in (tmp_path / "many").iterdir() if path.suffix != ".json")
    assert len(shards) > 2
    assert_same_tree(load(flax_model, shards, True, allow_missing_keys=True), wanted)
    assert_same_tree(compat.convert_pytorch_sharded_state_dict_to_flax(shards, flax_model), wanted)
    if not safe:
        original = old.convert_pytorch_sharded_state_dict_to_flax(shards, zeroed(flax_class, config))
        assert_same_tree(original, wanted)
    with refused(compat.WrongWeights, "is_sharded=False", hint="is_sharded=True"):
        load(flax_model, shards, False)


def test_unreadable_file_is_an_os_error(tmp_path):
    _, flax_class, config = pair("bert")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with refused(compat.UnreadableWeights, str(path), "git-lfs") as caught:
        compat.load_pytorch_checkpoint_in_flax_state_dict(flax_class(config, _do_init=False), path, False)
    assert isinstance(caught.value, OSError)
    with refused(compat.UnreadableWeights, "absent.msgpack") as caught:
        compat.load_flax_checkpoint_in_pytorch_model(pair("bert")[0], tmp_path / "absent.msgpack")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("family", GOOD_OR_SLOW)
def test_meta_model_gets_weights(family):
    source, params = flax_params(family)
    with torch.device("meta"):
        empty = type(source)(source.config)
    empty.tie_weights()
    with warnings_of() as told:
        compat.load_flax_weights_in_pytorch_model(empty, params)
    assert alarms(told) == []
    names = [name for name in source.state_dict() if not name.endswith("num_batches_tracked")]
    assert same_state(*({name: m.state_dict()[name] for name in names} for m in (empty, source)))


def test_original_leaves_a_meta_model_empty():
    source, params = flax_params("bert")
    with torch.device("meta"):
        empty = type(source)(source.config)
    with pytest.warns(UserWarning, match="no-op"), warnings_of() as told:
        old_load(empty, params)
    assert all(value.is_meta for value in empty.state_dict().values())
    assert any("were initialized from the Flax model" in text for text in told)


@pytest.mark.parametrize("meta", [True, False])
def test_ties_stay(meta):
    source, params = flax_params("gpt2")
    with torch.device("meta" if meta else "cpu"):
        model = type(source)(source.config)
    model.tie_weights()
    compat.load_flax_weights_in_pytorch_model(model, params)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)


def test_parameters_in_memory_keep_their_places():
    source, params = flax_params("bert")
    model = randomise(type(source)(source.config), seed=1)
    model.classifier.requires_grad_(False)
    before = {name: (p, p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()}
    compat.load_flax_weights_in_pytorch_model(model, freeze(params))
    after = {name: (p, p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()}
    for name, (parameter, *rest) in before.items():
        assert after[name][0] is parameter, name
        assert list(after[name][1:]) == rest, name
    assert model.training


def test_base_into_head():
    base, params = flax_params("bert", torch_class="BertModel")
    head = pair("bert", torch_class="BertForSequenceClassification")[0]
    wrong = randomise(type(head)(head.config), seed=1)
    old_load(wrong, params)
    names = [f"bert.{name}" for name in base.state_dict()]
    right = sum(torch.equal(wrong.state_dict()[f"bert.{n}"], v) for n, v in base.state_dict().items())
    assert right < len(names)
    model = randomise(type(head)(head.config), seed=1)
    own = {name: value.clone() for name, value in model.state_dict().items() if name not in names}
    with warnings_of() as told:
        compat.load_flax_weights_in_pytorch_model(model, params)
    found = model.state_dict()
    assert same_state({name: found[f"bert.{name}"] for name in base.state_dict()}, base.state_dict())
    assert same_state({name: found[name] for name in own}, own)
    (alarm,) = alarms(told)
    assert "newly initialized: ['classifier.bias', 'classifier.weight']" in alarm


def test_head_into_base():
    head, params = flax_params("bert")
    model = randomise(type(head.bert)(head.config), seed=1)
    with warnings_of() as told:
        compat.load_flax_weights_in_pytorch_model(model, params)
    assert same_state(model.state_dict(), head.bert.state_dict())
    (alarm,) = alarms(told)
    assert "BertModel: ['classifier.bias', 'classifier.kernel']" in alarm


def test_missing_parameters_of_a_meta_model_are_initialised():
    base, params = flax_params("bert", torch_class="BertModel")
    head = pair("bert", torch_class="BertForMaskedLM")[0]
    with torch.device("meta"):
        empty = type(head)(head.config)
    with warnings_of() as told:
        compat.load_flax_weights_in_pytorch_model(empty, params)
    assert not [name for name, value in empty.state_dict().items() if value.is_meta]
    assert empty.cls.predictions.decoder.weight is empty.bert.embeddings.word_embeddings.weight
    assert torch.equal(empty.cls.predictions.transform.LayerNorm.weight, torch.ones(16))
    assert 0 < empty.cls.predictions.transform.dense.weight.std() < 0.1
    assert torch.equal(empty.bert.embeddings.word_embeddings.weight, base.embeddings.word_embeddings.weight)
    assert "cls.predictions.transform.dense.weight" in alarms(told)[1]


@pytest.mark.slow
def test_good_loads_raise_no_alarm():
    for family in FAMILIES:
        model, flax_class, config = pair(family)
        with warnings_of() as told:
            params = converted(model.state_dict(), flax_class(config, _do_init=False))
            compat.load_flax_weights_in_pytorch_model(type(model)(config), params)
        assert alarms(told) == [], family


@pytest.mark.slow
def test_work_grows_with_the_keys_and_not_with_their_square(monkeypatch):
    """The original looked at all names of the model for each tensor of the checkpoint."""
    counts = []
    for layers in (2, 8):
        source, params = flax_params("bert", num_hidden_layers=layers)
        model = type(source)(source.config)
        calls = [0]
        inner = torch.nn.Module.state_dict

        def counted(self, *args, calls=calls, inner=inner, **kwargs):
            calls[0] += 1
            return inner(self, *args, **kwargs)

        monkeypatch.setattr(torch.nn.Module, "state_dict", counted)
        compat.load_flax_weights_in_pytorch_model(model, params)
        monkeypatch.undo()
        counts.append(calls[0] / len(list(model.modules())))
    assert counts[1] <= counts[0] * 1.5

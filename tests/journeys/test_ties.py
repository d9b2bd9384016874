"""Tied weights: filled twice, dropped or tied again, always knowingly."""

from __future__ import annotations

import flax.linen as linen
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import assert_same_bits
from support.errors import refused
from support.models import assert_same_state_dict, from_neutral, randomise, to_neutral
from torch import nn

import bridge_flax
import bridge_torch
from bridge_core import (
    BridgeError,
    FlatState,
    MismatchError,
    PlanError,
    StateMetadata,
    convert,
    open_state,
    plan_conversion,
    save_state,
    verify,
)

TOKENS = jnp.zeros((1, 2), jnp.int32)


def prefixed(state_dict, prefix):
    return {f"{prefix}.{name}": tensor for name, tensor in state_dict.items()}


class TorchLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(6, 4)
        self.fc = nn.Linear(4, 4)
        self.lm_head = nn.Linear(4, 6, bias=False)
        self.lm_head.weight = self.wte.weight


class LinenLanguageModel(linen.Module):
    tied: bool = False

    def setup(self):
        self.wte = linen.Embed(6, 4)
        self.fc = linen.Dense(4)
        if not self.tied:
            self.lm_head = linen.Dense(6, use_bias=False)

    def __call__(self, x):
        x = self.fc(self.wte(x))
        return self.wte.attend(x) if self.tied else self.lm_head(x)


class NnxLanguageModel(nnx.Module):
    def __init__(self, rngs):
        self.wte = nnx.Embed(6, 4, rngs=rngs)
        self.fc = nnx.Linear(4, 4, rngs=rngs)
        self.lm_head = nnx.Linear(4, 6, use_bias=False, rngs=rngs)


def language_templates():
    return {
        "linen": bridge_flax.template(LinenLanguageModel(), TOKENS),
        "nnx": nnx.eval_shape(lambda: NnxLanguageModel(nnx.Rngs(0))),
    }


def tied_leaves(made):
    if isinstance(made, nnx.Module):
        return np.asarray(made.wte.embedding[...]), np.asarray(made.lm_head.kernel[...])
    return np.asarray(made["params"]["wte"]["embedding"]), np.asarray(made["params"]["lm_head"]["kernel"])


@pytest.mark.parametrize("system", ["linen", "nnx"])
def test_a_tied_weight_fills_both_places_and_is_tied_again_on_the_way_back(system):
    module = randomise(TorchLanguageModel())
    made = from_neutral(to_neutral(module, "torch"), "flax", like=language_templates()[system])
    weight = module.wte.weight.detach().numpy()
    embedding, kernel = tied_leaves(made)
    assert_same_bits(embedding, weight)
    assert_same_bits(kernel, weight.T.copy())

    neutral = to_neutral(made, "flax", module=language_templates()[system])
    back = from_neutral(neutral, "torch", like=module)
    assert_same_state_dict(back, module.state_dict())
    assert back["lm_head.weight"].data_ptr() == back["wte.weight"].data_ptr()


def test_a_tie_survives_without_any_template():
    module = randomise(TorchLanguageModel())
    neutral = to_neutral(module, "torch")
    assert neutral.metadata.ties == {("lm_head", "kernel"): ("wte", "embedding")}
    back = from_neutral(neutral, "torch")
    assert_same_state_dict(back, module.state_dict())
    assert back["lm_head.weight"].data_ptr() == back["wte.weight"].data_ptr()


@pytest.mark.parametrize("system", ["linen", "nnx"])
def test_a_checkpoint_without_the_tied_key_is_completed_from_the_module(system):
    module = randomise(TorchLanguageModel())
    source = module.state_dict()
    del source["lm_head.weight"]
    made = from_neutral(to_neutral(source, "torch", module=module), "flax", like=language_templates()[system])
    weight = module.wte.weight.detach().numpy()
    embedding, kernel = tied_leaves(made)
    assert_same_bits(embedding, weight)
    assert_same_bits(kernel, weight.T.copy())


def test_a_checkpoint_without_the_tied_key_is_refused_where_nothing_tells_of_the_tie():
    source = randomise(TorchLanguageModel()).state_dict()
    del source["lm_head.weight"]
    with pytest.raises(MismatchError, match=r"1 missing: params\.lm_head\.kernel"):
        from_neutral(to_neutral(source, "torch"), "flax", like=language_templates()["linen"])


def test_a_prefixed_checkpoint_without_the_tied_key_is_completed_from_the_module():
    module = randomise(TorchLanguageModel())
    source = prefixed(module.state_dict(), "module")
    del source["module.lm_head.weight"]
    neutral = to_neutral(source, "torch", module=module)
    assert neutral.metadata.ties == {("module", "lm_head", "kernel"): ("module", "wte", "embedding")}
    made = from_neutral(neutral, "flax", like=language_templates()["linen"])
    assert_same_bits(tied_leaves(made)[1], module.wte.weight.detach().numpy().T.copy())


def test_a_template_without_the_tied_key_drops_it_and_says_why():
    module = randomise(TorchLanguageModel())
    template = bridge_flax.template(LinenLanguageModel(tied=True), TOKENS)
    plan = plan_conversion(module, to="flax", like=template)
    (dropped,) = plan.dropped
    assert dropped.key == ("lm_head", "weight")
    assert dropped.tied_to == ("wte", "weight")
    assert dropped.reason == "tied to wte.weight"
    assert plan.exact
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    assert_same_bits(np.asarray(tree["params"]["wte"]["embedding"]), module.wte.weight.detach().numpy())

    back = from_neutral(to_neutral(tree, "flax", module=template), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())
    assert back["lm_head.weight"].data_ptr() == back["wte.weight"].data_ptr()


def test_an_untied_template_that_is_given_two_different_values_is_refused_when_the_target_ties_them():
    template = language_templates()["linen"]
    tree = from_neutral(to_neutral(randomise(TorchLanguageModel()), "torch"), "flax", like=template)
    tree["params"]["lm_head"]["kernel"] = tree["params"]["lm_head"]["kernel"] + 1
    neutral = to_neutral(tree, "flax", module=template)
    with refused(PlanError, "lm_head.kernel", "wte.embedding", "[0, 0]", hint="like="):
        from_neutral(neutral, "torch", like=TorchLanguageModel())


@pytest.mark.parametrize("vocabulary", [4, 6])
def test_a_tie_that_a_flax_file_records_is_not_taken_for_one_tensor(tmp_path, vocabulary):
    """In Flax the two are each other's transpose: also where both are square, each is filled by itself."""
    module = nn.ModuleDict(
        {"wte": nn.Embedding(vocabulary, 4), "lm_head": nn.Linear(4, vocabulary, bias=False)}
    )
    randomise(module)
    module["lm_head"].weight = module["wte"].weight
    convert(module, tmp_path / "model.msgpack", to="flax")
    assert verify(module, tmp_path / "model.msgpack").equal
    other = randomise(module, seed=5)
    convert(other, tmp_path / "other.msgpack", to="flax", like=tmp_path / "model.msgpack")
    with open_state(tmp_path / "other.msgpack") as found:
        weight = other["wte"].weight.detach().numpy()
        assert_same_bits(found["wte", "embedding"], weight)
        assert_same_bits(found["lm_head", "kernel"], weight.T.copy())


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_tie_that_a_torch_file_records_is_made_again(tmp_path, name):
    module = randomise(TorchLanguageModel())
    convert(module, tmp_path / name, to="torch")
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=language_templates()["linen"])
    convert(tree, tmp_path / f"back-{name}", to="torch", like=tmp_path / name)
    with open_state(tmp_path / f"back-{name}") as back:
        assert back.metadata.ties == {("lm_head", "weight"): ("wte", "weight")}
        assert_same_bits(back["lm_head", "weight"], module.wte.weight.detach().numpy())


def test_a_plan_made_with_a_model_takes_a_state_without_the_tied_tensors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.wte.weight

    with torch.device("meta"):
        model = Net()
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    state = FlatState({"wte.weight": values}, layout="torch")
    for to in ("flax", "neutral"):
        plan = plan_conversion(state, to=to, model=model)
        made = plan.apply(state)
        assert plan.source_ties == {("head", "weight"): ("wte", "weight")}
        np.testing.assert_array_equal(made["head", "kernel"], values.T)
        assert ("head", "weight") not in state
    with pytest.raises(PlanError, match="another state"):
        plan.apply(FlatState({"other.weight": values}, layout="torch"))


class Thrice(nn.Module):
    """Three names for one tensor, one of them turned in Flax."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(5, 3), nn.Embedding(5, 3)
        self.c = nn.Linear(3, 5, bias=False)
        self.b.weight = self.c.weight = self.a.weight


@pytest.mark.parametrize("given", ["a", "b", "c", "ab", "ac", "bc", "abc"])
def test_one_tensor_of_three_names_is_made_of_any_of_them(given):
    module = Thrice()
    values = module.a.weight.detach().numpy()
    leaves = {"a": {"embedding": values}, "b": {"embedding": values.copy()}, "c": {"kernel": values.T.copy()}}
    made = from_torch_like({name: leaves[name] for name in given}, module)
    assert_same_state_dict(made, dict(module.state_dict()))


@pytest.mark.parametrize("given", ["ab", "ac", "bc", "abc"])
def test_one_tensor_of_three_names_has_one_value(given):
    module = Thrice()
    values = module.a.weight.detach().numpy()
    leaves = {"a": {"embedding": values}, "b": {"embedding": values.copy()}, "c": {"kernel": values.T.copy()}}
    tree = {name: leaves[name] for name in given}
    (leaf,) = tree[given[-1]]
    tree[given[-1]] = {leaf: tree[given[-1]][leaf] + 1}
    with refused(PlanError, "[0, 0]", hint="like="):
        from_torch_like(tree, module)


def from_torch_like(tree, module):
    return bridge_torch.from_neutral(bridge_flax.to_neutral(tree), like=module)


@pytest.mark.parametrize("kept", ["a", "b", "c"])
def test_a_file_that_keeps_one_name_of_a_tied_tensor_has_the_others(kept):
    with torch.device("meta"):
        model = Thrice()
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    state = FlatState({f"{kept}.weight": values}, layout="torch")
    made = plan_conversion(state, to="flax", model=model).apply(state)
    assert {key: made[key].shape for key in made} == {
        ("a", "embedding"): (5, 3),
        ("b", "embedding"): (5, 3),
        ("c", "kernel"): (3, 5),
    }
    np.testing.assert_array_equal(made["b", "embedding"], values)
    np.testing.assert_array_equal(made["c", "kernel"], values.T)


@pytest.mark.parametrize("same", [True, False])
def test_a_file_that_keeps_a_tied_tensor_twice_ties_what_is_equal(same, tmp_path):
    with torch.device("meta"):
        model = Thrice()
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    tensors = {"a.weight": values, "b.weight": values.copy(), "c.weight": values + (not same)}
    save_state(FlatState(tensors, layout="torch"), tmp_path / "w.safetensors")
    like = {"a": {"embedding": values}}
    if same:
        convert(tmp_path / "w.safetensors", tmp_path / "w.msgpack", to="flax", like=like, model=model)
        with open_state(tmp_path / "w.msgpack") as state:
            assert list(state) == [("a", "embedding")]
        return
    with pytest.raises(MismatchError, match=r"1 unexpected: c\.weight"):
        convert(tmp_path / "w.safetensors", tmp_path / "w.msgpack", to="flax", like=like, model=model)


def saved_and_opened(state, path):
    save_state(state, path)
    return open_state(path)


HOLDERS = {
    "memory": lambda state, folder: state,
    "safetensors": lambda state, folder: saved_and_opened(state, folder / "n.safetensors"),
    "npz": lambda state, folder: saved_and_opened(state, folder / "n.npz"),
    "msgpack": lambda state, folder: saved_and_opened(state, folder / "n.msgpack"),
}


def flax_without_head(vocabulary):
    return {"params": {"wte": {"embedding": np.zeros((vocabulary, 4), np.float32)}}}


def tied_model(vocabulary):
    module = nn.ModuleDict(
        {"wte": nn.Embedding(vocabulary, 4), "lm_head": nn.Linear(4, vocabulary, bias=False)}
    )
    randomise(module)
    module["lm_head"].weight = module["wte"].weight
    return module


@pytest.mark.parametrize("vocabulary", [4, 6])
@pytest.mark.parametrize("held", HOLDERS)
def test_a_tie_that_holds_is_used_in_two_steps_as_in_one(tmp_path, held, vocabulary):
    """In a neutral file both are stored, each turned as its kind has it; they are compared, and are equal."""
    module = tied_model(vocabulary)
    weight = module["wte"].weight.detach().numpy()
    state = HOLDERS[held](to_neutral(module, "torch"), tmp_path)
    back = from_neutral(state, "torch", like=module)
    assert_same_state_dict(back, module.state_dict())
    assert back["lm_head.weight"].data_ptr() == back["wte.weight"].data_ptr()
    tree = from_neutral(state, "flax", like=flax_without_head(vocabulary))
    assert_same_bits(np.asarray(tree["params"]["wte"]["embedding"]), weight)


def replaced(state, key, value):
    return state.replace(tensors={**state.tensors(), key: value})


def wrapped(state, key, value):
    tensors = {**state.tensors(), key: value}
    return FlatState(tensors, layout=state.layout, metadata=state.metadata)


@pytest.mark.parametrize("edit", [replaced, wrapped])
@pytest.mark.parametrize("key", [("lm_head", "kernel"), ("wte", "embedding")])
@pytest.mark.parametrize("held", HOLDERS)
def test_an_edited_tensor_is_never_replaced_by_its_ties_other_name(tmp_path, held, key, edit):
    module = tied_model(4)
    state = HOLDERS[held](to_neutral(module, "torch"), tmp_path)
    new = state[key] + 1
    edited = edit(state, key, new)
    with pytest.raises(BridgeError, match="lm_head"):
        from_neutral(edited, "torch", like=module)
    with pytest.raises(BridgeError, match="lm_head"):
        from_neutral(edited, "flax", like=flax_without_head(4))
    with pytest.raises(BridgeError, match=r"lm_head"):
        convert(edited, tmp_path / "made.pt", to="torch", like=module)
    assert not (tmp_path / "made.pt").exists()
    untied = from_neutral(edited, "torch")
    expected = {("lm_head", "kernel"): "lm_head.weight", ("wte", "embedding"): "wte.weight"}
    for name, torch_name in expected.items():
        value = new if name == key else state[name]
        turned = value.T if name[-1] == "kernel" else value
        assert_same_bits(untied[torch_name].numpy(), np.ascontiguousarray(turned))


def test_tied_tensors_of_two_dtypes_do_not_fit():
    module = tied_model(6)
    state = to_neutral(module, "torch")
    edited = replaced(state, ("lm_head", "kernel"), state["lm_head.kernel"].astype(np.float64))
    with pytest.raises(MismatchError, match=r"lm_head\.kernel: float64\[6, 4\] does not fit wte\.weight"):
        from_neutral(edited, "torch", like=module)


def test_an_edited_alias_of_a_file_is_written_and_verified(tmp_path):
    torch.save(tied_model(6).state_dict(), tmp_path / "m.pt")
    with open_state(tmp_path / "m.pt") as state:
        new = np.ones((6, 4), np.float32)
        for edit in (replaced, wrapped):
            for name in ("a.safetensors", "a.npz", "a.pt", "a.msgpack"):
                save_state(
                    edit(state, ("lm_head", "weight"), new), tmp_path / name, verify=True, overwrite=True
                )
                with open_state(tmp_path / name) as made:
                    assert_same_bits(made["lm_head.weight"], new)
                    assert_same_bits(made["wte.weight"], state["wte.weight"])


def test_a_chain_of_ties_of_which_one_no_longer_holds_is_written_and_verified(tmp_path):
    new = np.ones(3, np.float32)
    state = FlatState({"a": np.zeros(3, np.float32), "b": new}, layout="torch")
    tensors = {**state.tensors(), ("c",): state.tensor("b")}
    chained = StateMetadata(ties={("b",): ("a",), ("c",): ("b",)})
    save_state(state.replace(tensors=tensors, metadata=chained), tmp_path / "m.safetensors", verify=True)
    with open_state(tmp_path / "m.safetensors") as made:
        for name in ("b", "c"):
            assert_same_bits(made[name], new)

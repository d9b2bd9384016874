"""A weight that may be several things: kept as it is, refused on the way into Flax, guessed only if asked."""

import json

import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from support.bare_process import run_bare
from support.commands import assert_names, assert_refused
from support.loading import assert_same_tensors, load_flax, load_torch
from support.torch_bits import bits_of

import bridge_core
from bridge_core import AmbiguousLayerError, Rule

SQUARE = ("lookup.weight", "fc.weight", "embed.weight")
"""Tables and matrices without a bias beside them."""


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = dict.fromkeys(SQUARE, (6, 6)) | {"out.weight": (4, 6), "out.bias": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def source(weights, tmp_path):
    torch.save(weights, tmp_path / "source.pt")
    return tmp_path / "source.pt"


def leaves(path):
    return {".".join(key): value for key, value in flatten_dict(load_flax(path)).items()}


def test_it_is_refused_with_the_keys_and_the_options(source, tmp_path):
    done = run_bare("convert", source, tmp_path / "w.msgpack", "--to=flax")
    options = ("--like", "--model", "--rules", "--accept-guesses")
    assert_refused(done, AmbiguousLayerError, *SQUARE, *options)
    assert not done.stdout
    for name in SQUARE:
        (line,) = (line for line in done.stderr.splitlines() if name in line)
        assert_names(line, "linear", "embedding")
    assert "out.weight" not in done.stderr
    assert not (tmp_path / "w.msgpack").exists()


def test_guesses_are_made_if_asked_for_and_told(source, weights, tmp_path):
    done = run_bare("convert", source, tmp_path / "w.msgpack", "--to=flax", "--accept-guesses", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["guessed"]) == {"lookup.kernel", "fc.kernel", "embed.embedding"}
    found = leaves(tmp_path / "w.msgpack")
    assert bits_of(found["fc.kernel"]) == bits_of(weights["fc.weight"].T)
    assert bits_of(found["embed.embedding"]) == bits_of(weights["embed.weight"])

    plain = run_bare("convert", source, tmp_path / "w.npz", "--to=flax", "--accept-guesses")
    assert plain.returncode == 0
    said = plain.stdout + plain.stderr
    for name in ("lookup.kernel", "fc.kernel", "embed.embedding"):
        assert name in said

    back = run_bare("convert", tmp_path / "w.msgpack", tmp_path / "back.pt", "--to=torch")
    assert back.returncode == 0, back.stderr
    assert_same_tensors(load_torch(tmp_path / "back.pt"), weights)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".msgpack"])
def test_in_neutral_form_it_stays_open_and_comes_back(source, weights, suffix, tmp_path):
    neutral = tmp_path / f"n{suffix}"
    bridge_core.convert(source, neutral, to="neutral")
    with bridge_core.open_state(neutral) as state:
        for name in SQUARE:
            path, leaf = name.split(".")
            info = state.metadata.layers[path,]
            assert info.kind is None
            assert {"torch.linear", "torch.embedding"} <= set(info.candidates)
            assert bits_of(state[path, leaf]) == bits_of(weights[name])
        assert state.metadata.layers["out",].kind == "linear"
    bridge_core.convert(neutral, tmp_path / "back.safetensors", to="torch")
    assert_same_tensors(load_torch(tmp_path / "back.safetensors"), weights)
    with pytest.raises(AmbiguousLayerError) as caught:
        bridge_core.convert(neutral, tmp_path / "w", to="flax", format="npz")
    assert set(caught.value.candidates) == set(SQUARE)


def embedding_model():
    """A factory for ``--model``: what the modules are settles it."""
    with torch.device("meta"):
        table = torch.nn.Embedding(6, 6)
        layers = {
            "lookup": table,
            "fc": torch.nn.Linear(6, 6, bias=False),
            "embed": torch.nn.Embedding(6, 6),
            "out": torch.nn.Linear(6, 4),
        }
    return torch.nn.ModuleDict(layers)


def test_every_kind_of_evidence_settles_it(source, weights, tmp_path):
    wanted = {"lookup.embedding", "fc.kernel", "embed.embedding", "out.kernel", "out.bias"}
    tree = {
        "lookup": {"embedding": np.zeros((6, 6), "f4")},
        "fc": {"kernel": np.zeros((6, 6), "f4")},
        "embed": {"embedding": np.zeros((6, 6), "f4")},
        "out": {"kernel": np.zeros((6, 4), "f4"), "bias": np.zeros(4, "f4")},
    }
    kinds = {"lookup": "embedding", "fc": "linear", "embed": "embedding"}
    rules = [Rule.layer(path, kind) for path, kind in kinds.items()]
    for number, evidence in enumerate(({"model": embedding_model()}, {"like": tree}, {"rules": rules})):
        path = tmp_path / f"{number}.msgpack"
        report = bridge_core.convert(source, path, to="flax", **evidence)
        assert not report.guessed
        found = leaves(path)
        assert set(found) == wanted
        assert bits_of(found["lookup.embedding"]) == bits_of(weights["lookup.weight"])
        assert bits_of(found["fc.kernel"]) == bits_of(weights["fc.weight"].T)
        bridge_core.convert(path, tmp_path / f"{number}.pt", to="torch")
        assert_same_tensors(load_torch(tmp_path / f"{number}.pt"), weights)
    like = run_bare("convert", source, tmp_path / "like.msgpack", "--to=flax", f"--like={tmp_path}/0.msgpack")
    assert like.returncode == 0, like.stderr
    assert set(leaves(tmp_path / "like.msgpack")) == wanted


def test_control_the_wrong_kind_gives_other_values(source, weights, tmp_path):
    bridge_core.convert(source, tmp_path / "w.msgpack", to="flax", rules=[Rule.layer("*", "linear")])
    found = leaves(tmp_path / "w.msgpack")
    assert bits_of(found["embed.kernel"]) != bits_of(weights["embed.weight"])

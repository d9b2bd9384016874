"""The names of axes, from metadata and from the layers that names and shapes prove; never a guess."""

import numpy as np
import pytest
import torch

from bridge_core import convert, default_registry, open_state
from bridge_core.resolve import axis_names
from bridge_core.state import join_key


@pytest.fixture
def source(tmp_path):
    model = torch.nn.ModuleDict(
        {
            "conv": torch.nn.Conv2d(3, 4, 3),
            "norm": torch.nn.BatchNorm2d(4),
            "fc": torch.nn.Linear(4, 3),
            "emb": torch.nn.Embedding(5, 4),
            "rnn": torch.nn.LSTM(4, 3),
        }
    )
    torch.save(model.state_dict(), tmp_path / "m.pt")
    return tmp_path / "m.pt"


def names_of(path, **options):
    with open_state(path, **options) as state:
        names = axis_names(state, default_registry())
        assert all(len(names[key]) == len(state.spec(key).shape) for key in names)
    return {join_key(key): axes for key, axes in names.items()}


def test_layers_that_names_and_shapes_prove_have_them_in_the_files_order(source, tmp_path):
    names = names_of(source)
    assert names["conv.weight"] == ("out", "in", "k0", "k1")
    assert names["fc.weight"] == ("out", "in")
    assert names["norm.running_mean"] == ("features",)
    assert names["rnn.weight_ih_l0"] == ("4*hidden", "in")
    assert "emb.weight" not in names
    convert(source, tmp_path / "m.msgpack", to="flax", accept_guesses=True)
    names = names_of(tmp_path / "m.msgpack")
    assert names["params.conv.kernel"] == ("k0", "k1", "in", "out")
    assert names["params.fc.kernel"] == ("in", "out")


def test_a_neutral_file_has_those_of_its_records(source, tmp_path):
    convert(source, tmp_path / "n.safetensors", to="neutral")
    names = names_of(tmp_path / "n.safetensors")
    assert names["conv.kernel"] == ("k0", "k1", "in", "out")
    assert names["rnn.0.ii.kernel"] == ("in", "hidden")
    assert "emb.weight" not in names


@pytest.mark.parametrize("options", [{}, {"layout": "neutral"}, {"layout": "flax"}], ids=repr)
def test_without_a_layout_or_a_layer_there_are_none(tmp_path, options):
    np.savez(tmp_path / "x.npz", **{"x.thing": np.ones((2, 3))})
    assert names_of(tmp_path / "x.npz", **options) == {}

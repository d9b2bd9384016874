"""Layouts found from names: a neutral file that lost its metadata is not taken for a framework's own."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

import bridge_core
from bridge_core import AmbiguousLayerError, FlatState, UsageError, default_registry
from bridge_core.plugins import composite_layers

REGISTRY = default_registry()


def array(*shape):
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def attention(heads=()):
    tree = {f"att.{name}.kernel": array(8, *(heads or (8,))) for name in ("query", "key", "value")}
    return {**tree, "att.out.kernel": array(*(heads or (8,)), 8)}


def recurrent(gates, biases):
    tree = {f"rnn.i{g}.kernel": array(3, 4) for g in gates} | {f"rnn.h{g}.kernel": array(4, 4) for g in gates}
    return tree | {f"rnn.{side}{g}.bias": array(4) for side in biases for g in gates}


def batch_norm(*more):
    return {f"bn.{name}": array(4) for name in ("scale", "bias", "mean", "var")} | {
        f"bn.{n}": array() for n in more
    }


LINEAR = {"fc.kernel": array(3, 4), "fc.bias": array(4)}
NEUTRAL = {
    "attention": attention(),
    "lstm": recurrent("ifgo", "ih"),
    "lstm without biases": recurrent("ifgo", ""),
    "gru": recurrent("rzn", "ih"),
    "rnn": recurrent(("",), "ih"),
    "batch norm": batch_norm("num_batches_tracked"),
    "batch norm without weights": {
        "bn.mean": array(4),
        "bn.var": array(4),
        "bn.num_batches_tracked": array(),
    },
    "weight norm": {"wn.g": array(4), "wn.v": array(3, 4)},
}
FLAX = {
    "linear": {},
    "attention with heads": attention((2, 4)),
    "lstm": recurrent("ifgo", "h"),
    "three of attention": {name: leaf for name, leaf in attention().items() if "out" not in name},
    "self attention of transformers": {
        **{f"self.{name}.kernel": array(8, 8) for name in ("query", "key", "value")},
        "output.dense.kernel": array(8, 8),
    },
    "batch norm": batch_norm(),
    "scalar gains": {"wn.g": array(5), "wn.v": array(3, 4)},
    "not square": {"m.i.kernel": array(3, 4), "m.h.kernel": array(5, 4)},
}


def written(tensors, path):
    """Write as another library does, which knows nothing of our metadata."""
    state = FlatState({tuple(name.split(".")): leaf for name, leaf in tensors.items()})
    bridge_core.save_state(state, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "msgpack"])
@pytest.mark.parametrize("name", NEUTRAL)
def test_layers_that_only_the_neutral_form_has_leave_the_layout_open(tmp_path, name, suffix):
    path = written({**LINEAR, **NEUTRAL[name]}, tmp_path / f"x.{suffix}")
    with bridge_core.open_state(path) as state:
        assert state.layout is None
    for to in ("flax", "torch"):
        layer = next(iter(NEUTRAL[name])).split(".")[0]
        with refused(UsageError, path.name, layer, hint=("(--layout ", "neutral", "flax")):
            bridge_core.convert(path, tmp_path / "y.safetensors", to=to)
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize("name", FLAX)
def test_layers_of_flax_itself_are_still_flax(name):
    assert (
        REGISTRY.layout_of({k: v for k, v in FlatState({**LINEAR, **FLAX[name]}).specs().items()}) == "flax"
    )


def test_a_batch_norm_without_kernels_is_not_taken_for_torchs():
    assert REGISTRY.layout_of(FlatState(batch_norm("num_batches_tracked")).specs()) is None
    native = {f"bn.{n}": array(4) for n in ("weight", "bias", "running_mean", "running_var")}
    assert REGISTRY.layout_of(FlatState({**native, "bn.num_batches_tracked": array()}).specs()) == "torch"


def test_a_stated_or_recorded_layout_is_taken(tmp_path):
    path = written({**LINEAR, **attention()}, tmp_path / "x.msgpack")
    for layout in ("flax", "neutral"):
        with bridge_core.open_state(path, layout=layout) as state:
            assert state.layout == layout
    recorded = FlatState({("bn", "num_batches_tracked"): array(), ("bn", "mean"): array(4)}, layout="flax")
    bridge_core.save_state(recorded, tmp_path / "y.safetensors")
    with bridge_core.open_state(tmp_path / "y.safetensors") as state:
        assert state.layout == "flax"


@pytest.mark.parametrize("name", ["attention", "lstm", "gru", "rnn"])
def test_parts_of_a_composite_layer_stay_open_where_neither_metadata_nor_a_template_decides(tmp_path, name):
    path = written({**LINEAR, **NEUTRAL[name]}, tmp_path / "x.safetensors")
    with refused(AmbiguousLayerError, name, "linear"):
        bridge_core.convert(path, tmp_path / "y.safetensors", to="torch", layout="neutral")
    parts = {key.replace("kernel", "weight"): leaf.T for key, leaf in {**LINEAR, **NEUTRAL[name]}.items()}
    bridge_core.convert(path, tmp_path / "y.safetensors", to="torch", layout="neutral", like=FlatState(parts))
    with bridge_core.open_state(tmp_path / "y.safetensors") as state:
        for key, leaf in parts.items():
            np.testing.assert_array_equal(state[tuple(key.split("."))], leaf)


def test_composite_layers_are_found_by_all_that_they_need():
    specs = FlatState({**LINEAR, **attention(), **recurrent("rzn", "i")}).specs()
    assert composite_layers(specs, REGISTRY) == {("att",): "attention", ("rnn",): "gru"}
    assert composite_layers(FlatState(FLAX["three of attention"]).specs(), REGISTRY) == {}


def test_names_of_no_framework_are_listed_with_the_options(tmp_path):
    path = written({"linear/w": array(3, 4), "linear/b": array(4)}, tmp_path / "x.safetensors")
    with refused(UsageError, "x.safetensors:", "linear", "flax", "torch", hint="(--layout "):
        bridge_core.convert(path, tmp_path / "y.safetensors", to="torch")

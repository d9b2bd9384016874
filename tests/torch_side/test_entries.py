"""Which entry of a torch file is read: the usual one, or the one that is asked for."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from support.errors import refused
from support.torch_files import assert_same

from bridge_core import MalformedFile, SourceFile, UnsafeFile, UsageError
from bridge_core.formats import FormatWithEntries
from bridge_torch.file_format.format import TorchFormat

W = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
EMA = {name: tensor + 100 for name, tensor in W.items()}
OTHER = {name: tensor - 100 for name, tensor in W.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"params": [0]}]}


def opened(root, path, entry, *, zipped=True):
    torch.save(root, path, _use_new_zipfile_serialization=zipped)
    file = SourceFile(path)
    try:
        return TorchFormat().open_entry(file, entry)
    except BaseException:
        file.close()
        raise


def test_the_format_says_that_it_knows_entries():
    assert isinstance(TorchFormat(), FormatWithEntries)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("root", "entry", "wrapper", "expected"),
    [
        ({"state_dict": W, "state_dict_ema": EMA}, "state_dict_ema", "state_dict_ema", EMA),
        ({"state_dict": W, "state_dict_ema": EMA}, "state_dict", "state_dict", W),
        ({"model": W, "model_ema": OrderedDict(EMA)}, "model_ema", "model_ema", EMA),
        ({"ckpt": {"model": W, "model_ema": EMA}}, "ckpt.model_ema", "ckpt.model_ema", EMA),
        ({"ckpt": {"model": W, "ema": EMA}}, "ckpt", "ckpt.model", W),
        ({"model": W, "ema": {"state_dict": EMA, "decay": 0.9}}, "ema", "ema.state_dict", EMA),
        ({"model": W, "callbacks": {"EMA": {"weights": EMA}}}, "callbacks.EMA.weights", None, EMA),
        ({"g": W, "d": OTHER, "g_ema": EMA}, "g_ema", "g_ema", EMA),
        ({"a.b": {"c.d": EMA}, "a": {"b": OTHER}}, "a.b.c.d", "a.b.c.d", EMA),
        ({"a.b": EMA, "a": {"b": OTHER}}, "a.b", "a.b", EMA),
        ({f"ema.{n}": t for n, t in EMA.items()} | W, "ema", "ema", EMA),
        ({"state_dict": {f"ema.{n}": t for n, t in EMA.items()} | W}, "state_dict.ema", None, EMA),
        ({"state_dict": {f"ema.{n}": t for n, t in EMA.items()} | W}, "ema", "state_dict.ema", EMA),
        ({"model": {"enc": W, "dec": EMA}}, "dec", "model.dec", EMA),
    ],
)
def test_an_entry_is_read_without_its_path(tmp_path, root, entry, wrapper, expected, zipped):
    with opened(root, tmp_path / "a.pt", entry, zipped=zipped) as state:
        assert_same(state, expected)
        assert state.metadata.provenance["entry"] == entry
        assert state.metadata.provenance["wrapper"] == (wrapper or entry)


def test_the_note_names_what_was_not_read_in_place_of_the_entry(tmp_path):
    root = {"state_dict": W, "ema": {"shadow": EMA, "decay": 0.9}, "optim_g": OPTIMIZER, "epoch": 1}
    with opened(root, tmp_path / "a.pt", "ema.shadow") as state:
        assert_same(state, EMA)
        assert state.metadata.notes == (
            "the weights were read from the entry 'ema.shadow'; not read: "
            'state_dict (2 tensors; entry="state_dict", --entry state_dict), optim_g, epoch, ema.decay',
        )
    flat = (
        {f"ema.{n}": t for n, t in EMA.items()}
        | {f"net.{n}": t for n, t in W.items()}
        | {"step": torch.ones(1)}
    )
    with opened(flat, tmp_path / "b.pt", "ema") as state:
        assert state.metadata.notes == (
            "the weights were read from the entry 'ema'; not read: "
            'net (2 tensors; entry="net", --entry net), step (a tensor)',
        )


def test_a_name_that_a_shell_would_split_is_quoted(tmp_path):
    root = {"state_dict": W, 'the "best" one': EMA}
    with opened(root, tmp_path / "a.pt", "state_dict") as state:
        assert r"""entry="the \"best\" one", --entry 'the "best" one'""" in state.metadata.notes[0]
    with opened(root, tmp_path / "a.pt", 'the "best" one') as state:
        assert_same(state, EMA)


@pytest.mark.parametrize(
    ("entry", "named", "hint"),
    [
        ("model_emma", ("'model_emma'", "model, model_ema"), "'model_ema'"),
        ("zzz", ("model, model_ema, nested",), ""),
        ("model_ema.a.weight", ("'model_ema.a.weight'", "a single tensor"), ""),
        ("best", ("'best'", "a single tensor"), ('entry="model" (--entry model)', "model_ema, nested")),
        ("epoch", ("'epoch'", "an int"), "--entry model"),
        ("name", ("'name'", "a str"), "--entry model"),
        ("nothing", ("'nothing'", "None"), "--entry model"),
        ("options", ("'options'", "a dict without tensors"), "--entry model"),
        ("history", ("'history'", "a list"), "--entry model"),
        ("", ("''",), ""),
        (".", ("'.'",), ""),
        ("model.", ("'model.'",), ""),
    ],
)
def test_an_entry_that_is_not_a_dict_of_tensors_is_refused(tmp_path, entry, named, hint):
    root = {
        **{"model": W, "model_ema": EMA, "best": torch.ones(1), "epoch": 3, "name": "x", "nothing": None},
        **{"options": {"lr": 0.1}, "history": [torch.ones(1)], "nested": {"x": EMA}},
    }
    with refused(UsageError, *named, hint=hint) as caught:
        opened(root, tmp_path / "a.pt", entry)
    assert caught.value.path == str(tmp_path / "a.pt")


def test_an_entry_that_is_an_object_of_a_class_is_refused(tmp_path):
    root = {"state_dict": W, "ema": torch.nn.Linear(2, 2)}
    with refused(UnsafeFile, "Linear (in ema)", hint='entry="state_dict" (--entry state_dict)'):
        opened(root, tmp_path / "a.pt", "ema")


def test_the_state_of_an_optimizer_is_not_a_state_dict(tmp_path):
    with refused(MalformedFile, "optimizer.state.0"):
        opened({"model": W, "optimizer": OPTIMIZER}, tmp_path / "a.pt", "optimizer.state")


def test_a_tie_between_entries_does_not_matter(tmp_path):
    shared = torch.arange(4.0)
    root = {"model": {"w": shared, "v": shared}, "ema": {"w": shared, "u": torch.ones(1)}}
    with opened(root, tmp_path / "a.pt", "ema") as state:
        assert_same(state, root["ema"])
        assert state.metadata.ties == {}


@pytest.mark.parametrize(
    ("root", "there"),
    [
        ({"models": [{"w": torch.ones(2)}]}, "no entry"),
        ({"w": torch.ones(2), "models": [{"w": torch.ones(2)}]}, "at the top"),
    ],
)
def test_without_entries_the_refusal_says_where_tensors_are(tmp_path, root, there):
    with refused(UsageError, "'models.0'", there):
        opened(root, tmp_path / "a.pt", "models.0")

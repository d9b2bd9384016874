"""An entry of a checkpoint, from every kind of source through every command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flax import serialization
from safetensors.numpy import load_file, save_file

import bridge_core
from bridge_core import UsageError, open_state, save_state
from bridge_core.cli import main

KERNEL = np.arange(6, dtype="f4").reshape(2, 3)
BIAS = np.arange(2, dtype="f4")


def weights(offset=0):
    return {"fc.weight": torch.from_numpy(KERNEL + offset), "fc.bias": torch.from_numpy(BIAS + offset)}


def as_torch(path, *, to="torch", entry=None):
    target = path.parent / "result.safetensors"
    report = bridge_core.convert(path, target, to=to, entry=entry, overwrite=True)
    return load_file(target), report


def assert_holds(found, offset):
    assert set(found) == {"fc.weight", "fc.bias"}
    assert np.array_equal(found["fc.weight"], KERNEL + offset)
    assert np.array_equal(found["fc.bias"], BIAS + offset)


@pytest.fixture
def torch_file(tmp_path):
    torch.save({"model": weights(), "model_ema": weights(50), "epoch": 3}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.fixture
def flax_file(tmp_path):
    def tree(offset):
        return {"fc": {"kernel": np.ascontiguousarray((KERNEL + offset).T), "bias": BIAS + offset}}

    state = {
        "params": tree(0),
        "ema_params": tree(50),
        "opt_state": {"0": {"mu": tree(7), "count": np.int32(3)}},
    }
    (tmp_path / "a.msgpack").write_bytes(serialization.msgpack_serialize(state))
    return tmp_path / "a.msgpack"


@pytest.fixture
def flat_file(tmp_path):
    arrays = {f"net.{name}": value.numpy() for name, value in weights().items()}
    arrays |= {f"ema.{name}": value.numpy() for name, value in weights(50).items()}
    save_file(arrays, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_torch_file(torch_file):
    made, report = as_torch(torch_file)
    assert_holds(made, 0)
    assert any("--entry model_ema" in note and "epoch" in note for note in report.notes)
    made, report = as_torch(torch_file, entry="model_ema")
    assert_holds(made, 50)
    assert any("from the entry 'model_ema'" in note for note in report.to_json()["notes"])


def test_a_collection_of_a_flax_tree(flax_file):
    made, report = as_torch(flax_file, entry="ema_params")
    assert_holds(made, 50)
    assert any("params (2 tensors)" in note and "opt_state (3 tensors)" in note for note in report.notes)
    assert_holds(as_torch(flax_file, entry="params")[0], 0)
    assert_holds(as_torch(flax_file, entry="opt_state.0.mu")[0], 7)


def test_names_that_begin_alike_in_a_flat_file(flat_file):
    assert_holds(as_torch(flat_file, entry="ema")[0], 50)
    found = as_torch(flat_file, entry="net.fc")[0]
    assert np.array_equal(found["weight"], KERNEL)


@pytest.mark.parametrize("name", ["set.safetensors/", "set.bin/"])
def test_a_sharded_set_is_one_source(tmp_path, flat_file, name):
    format = {"set.bin/": "torch"}.get(name)
    with open_state(flat_file) as state:
        save_state(state, f"{tmp_path}/{name}", max_shard_size=30, format=format)
    folder = tmp_path / name
    assert len(list(folder.glob("*-of-*"))) > 1
    with open_state(folder, entry="ema") as state:
        assert np.array_equal(state["fc.weight"], KERNEL + 50)
        assert "net (2 tensors)" in state.metadata.notes[-1]
    with pytest.raises(UsageError, match="'emma'; the entries with tensors are: ema, net"):
        open_state(folder, entry="emma")


def test_states_and_mappings(torch_file, flat_file, tmp_path):
    target = tmp_path / "b.safetensors"
    loaded = torch.load(torch_file, weights_only=True)
    with open_state(flat_file) as state:
        for source, entry in ((loaded, "model_ema"), (state, "ema"), ({"x": loaded}, "x.model_ema")):
            report = bridge_core.convert(source, target, to="torch", entry=entry, overwrite=True)
            assert_holds(load_file(target), 50)
            assert any(f"from the entry {entry!r}" in note for note in report.notes)
    nested = {"params": {"fc": {"kernel": KERNEL.T}}, "ema": {"fc": {"kernel": KERNEL.T + 50}}, "step": 3}
    bridge_core.convert(nested, target, to="torch", layout="flax", entry="ema", overwrite=True)
    assert np.array_equal(load_file(target)["fc.weight"], KERNEL + 50)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Sequential(torch.nn.Linear(3, 2)))
    bridge_core.convert(module, target, to="torch", entry="1.0", overwrite=True)
    assert np.array_equal(load_file(target)["weight"], module[1][0].weight.detach().numpy())
    with pytest.raises(UsageError, match="there is no entry 'emma'"):
        bridge_core.convert(
            {"a": {"w": KERNEL}}, target, to="torch", layout="torch", entry="emma", overwrite=True
        )


def test_plan_and_verify_take_the_entry_of_the_source(torch_file):
    made = torch_file.parent / "result.safetensors"
    bridge_core.convert(torch_file, made, to="flax", entry="model_ema")
    assert bridge_core.verify(torch_file, made, entry="model_ema").equal
    assert not bridge_core.verify(torch_file, made).equal
    plan = bridge_core.plan_conversion(torch_file, to="flax", entry="model_ema")
    assert any("'model_ema'" in note for note in plan.notes)


def run(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_every_command_takes_the_entry(torch_file):
    made, source = str(torch_file.parent / "made.safetensors"), str(torch_file)
    chosen = ("--entry", "model_ema")

    code, out, _ = run("convert", source, made, "--to", "flax", *chosen, "--json")
    assert code == 0
    assert "from the entry 'model_ema'" in json.loads(out)["notes"][0]
    assert np.array_equal(load_file(made)["fc.kernel"], (KERNEL + 50).T)
    assert run("verify", source, made, *chosen)[0] == 0
    assert run("verify", source, made)[0] == 1
    for command in (
        ("plan", source, "--to", "flax"),
        ("explain", source, "fc.weight", "--to", "flax"),
        ("inspect", source),
    ):
        code, out, _ = run(*command, *chosen)
        assert code == 0
        assert "fc.weight" in out
        code, _, said = run(*command, "--entry", "model_emu")
        assert code == 2
        assert "Did you mean 'model_ema'?" in said
    document = json.loads(run("inspect", source, *chosen, "--json")[1])
    assert document["metadata"]["provenance"]["entry"] == "model_ema"
    assert "--entry model" in document["notes"][0]


def test_inspect_names_the_shard_of_each_tensor_of_an_entry(tmp_path, flat_file):
    with open_state(flat_file) as state:
        save_state(state, f"{tmp_path}/set/", max_shard_size=30, format="safetensors")
    tensors = json.loads(run("inspect", f"{tmp_path}/set", "--entry", "ema", "--json")[1])["tensors"]
    index = json.loads((tmp_path / "set/model.safetensors.index.json").read_text())["weight_map"]
    assert {name: t["file"] for name, t in tensors.items()} == {
        name: index[f"ema.{name}"] for name in ("fc.weight", "fc.bias")
    }


def test_nothing_is_written_where_there_is_no_such_entry(torch_file):
    target = torch_file.parent / "none.safetensors"
    with pytest.raises(UsageError, match="model_emu"):
        bridge_core.convert(torch_file, target, to="flax", entry="model_emu")
    assert not target.exists()


def test_a_file_without_checksums_is_converted_with_a_note(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights(), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    made, report = as_torch(tmp_path / "a.pt")
    assert_holds(made, 0)
    assert any("no checksums" in note for note in report.notes)

"""Checkpoints of transformers at URLs: the same as from a folder, and nothing is left on the disk."""

from __future__ import annotations

import tempfile

import pytest
import torch
from support.remote_systems import SYSTEMS
from transformers import GPT2Config, GPT2LMHeadModel

from bridge_core import convert, plan_conversion
from ckptbridge_transformers.folders import files_beside

SIDECARS = ("config.json", "generation_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of GPT-2 in shards, with a tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=20)
    GPT2LMHeadModel(config).save_pretrained(folder, max_shard_size="20KB")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("system", ["memory", "hub"])
def test_a_folder_at_a_url_is_converted_as_one_on_the_disk(folder, system, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    convert(folder, f"{tmp_path}/local/", to="flax")
    with SYSTEMS[system](folder) as served:
        report = convert(served.url(), f"{tmp_path}/remote/", to="flax", registry=served.registry)
    assert tuple(path.name for path in report.sidecar_files) == SIDECARS
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")
    assert "GPT2LMHeadModel" in " ".join(report.notes)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_part_of_a_model_at_a_url_gets_the_config_of_the_part(folder, tmp_path):
    with SYSTEMS["memory"](folder) as served:
        for name, source in (("local", folder), ("remote", served.url())):
            convert(
                source, f"{tmp_path}/{name}/", to="flax", only="transformer.h=1", registry=served.registry
            )
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_where_folders_are_not_listed_the_config_is_read_and_copied(folder, tmp_path):
    with SYSTEMS["unlisted"](folder) as served:
        index = served.url("model.safetensors.index.json")
        report = convert(index, f"{tmp_path}/out/", to="flax", model="auto", registry=served.registry)
        assert [path.name for path in report.sidecar_files] == ["config.json"]
        assert files_beside(served.system.path()) == ("config.json",)
        plan = plan_conversion(index, to="flax", model="auto", registry=served.registry)
    assert plan.ok
    assert (tmp_path / "out/config.json").read_bytes() == (folder / "config.json").read_bytes()

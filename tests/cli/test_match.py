"""``ckptbridge match``: files, exit codes and JSON."""

import json

import pytest
from click.testing import CliRunner
from support.match_pairs import encoder
from support.schemas import check_document

from bridge_core import save_state
from bridge_core.cli import main


@pytest.fixture
def files(tmp_path):
    pair = encoder(layers=1)
    save_state(pair.source, tmp_path / "a.safetensors")
    save_state(pair.target, tmp_path / "b.msgpack")
    few = pair.target.select(lambda key: key[-1] != "embedding")
    save_state(few, tmp_path / "few.msgpack")
    return tmp_path


def run(*args):
    return CliRunner().invoke(main, ["match", *map(str, args)])


def test_it_writes_the_rules_once(files):
    args = (files / "a.safetensors", "--like", files / "b.msgpack", "-o", files / "rules.toml")
    assert run(*args).exit_code == 0
    text = (files / "rules.toml").read_text()
    assert "[[rule]]" in text
    again = run(*args)
    assert again.exit_code == 1
    assert "rules.toml" in again.stderr
    assert run(*args, "--overwrite").exit_code == 0
    assert run(files / "a.safetensors", "--like", files / "b.msgpack").stdout == text


@pytest.mark.parametrize("name", ["b.msgpack", "pyproject.toml"])
def test_only_rules_are_replaced(files, name):
    (files / "pyproject.toml").write_text('[project]\nname = "net"\n[[rule]]\nsource = "a"\n')
    before = (files / name).read_bytes()
    args = (files / "none.safetensors", "--like", files / "b.msgpack", "--overwrite", "-o", files / name)
    refused = run(*args)
    assert refused.exit_code == 1
    assert f"{name}: the file (-o) exists, and is not a rule file" in " ".join(refused.stderr.split())
    assert (files / name).read_bytes() == before


@pytest.mark.parametrize("text", ["", "# my notes\n", 'source = "torch"\n[[rule]]\nsource = 3\n'])
def test_rules_that_are_wrong_or_begun_are_replaced(files, text):
    (files / "rules.toml").write_text(text)
    args = (files / "a.safetensors", "--like", files / "b.msgpack", "-o", files / "rules.toml")
    assert run(*args, "--overwrite").exit_code == 0
    assert "[[rule]]" in (files / "rules.toml").read_text()


def test_what_is_open_ends_with_one(files):
    done = run(files / "a.safetensors", "--like", files / "few.msgpack")
    assert done.exit_code == 1
    assert "emb.word.weight" in done.stderr


def test_json(files):
    for name, code in (("b", 0), ("few", 1)):
        done = run(files / "a.safetensors", "--like", files / f"{name}.msgpack", "--json")
        assert done.exit_code == code
        document = json.loads(done.stdout)
        check_document("match", document)
        assert document["complete"] == (code == 0)

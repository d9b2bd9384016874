import json

import pytest
from click.testing import CliRunner
from support.commands import assert_refused
from support.schemas import SCHEMAS, check_document
from support.work_parts import in_one_process, without_manifest, write_source

from bridge_core.cli.app import main
from bridge_core.conversion.given_options import GivenOptions
from bridge_core.errors import ConversionError, DestinationExists, MalformedFile, UsageError


@pytest.fixture
def call(tmp_path, monkeypatch):
    write_source(tmp_path / "source.safetensors")
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    return run


def test_a_list_is_made_run_and_finished(call, tmp_path):
    options = ("--to", "flax", "--max-shard-size", "3kB")
    made = call("work", "make", "source.safetensors", "out/", *options, "--parts", 2, "-o", "work.json")
    assert "2 parts, 6 files" in made.stdout
    assert "--part N" in made.stdout
    assert "0 of 2 parts" in call("work", "status", "work.json", code=1).stdout
    assert "wrote 3 files" in call("work", "run", "work.json", "--part", 1).stdout
    assert "3 were complete before" in call("work", "run", "work.json", "--part", 1).stdout
    assert_refused(call("work", "finish", "work.json", code=1), ConversionError, "3 of 6 files", "--part 2")
    call("work", "run", "work.json", "--part", 2, "--workers", 1, "--max-ram", "32MB")
    assert "2 of 2 parts" in call("work", "status", "work.json").stdout
    assert "wrote 7 files" in call("work", "finish", "work.json").stdout
    assert call("work", "status", "work.json").stdout == "finished\n"
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)
    assert "intact: 7 files" in call("verify", "--manifest", "out").stdout


def test_json_documents_are_what_the_schemas_say(call, tmp_path):
    def document(*words, code=0):
        return json.loads(call(*words, "--json", code=code).stdout)

    make = ("work", "make", "source.safetensors", "out", "--to", "flax", "--max-shard-size", "3kB")
    made = document(*make, "--parts", 2, "-o", "work.json")
    check_document("work-list", made)
    assert made == json.loads((tmp_path / "work.json").read_text())
    check_document("work-status", document("work", "status", "work.json", code=1))
    check_document("work-run", document("work", "run", "work.json", "--part", 1))
    check_document("work-run", document("work", "run", "work.json", "--part", 2))
    check_document("convert", document("work", "finish", "work.json"))
    check_document("work-status", document("work", "status", "work.json"))
    check_document("manifest", json.loads((tmp_path / "out" / "ckptbridge-manifest.json").read_text()))
    check_document("verify-manifest", document("verify", "--manifest", "out"))
    (tmp_path / "out" / "flax_model.msgpack.index.json").unlink()
    check_document("verify-manifest", document("verify", "--manifest", "out", code=1))


def test_fewer_files_than_parts_are_said(call):
    make = ("work", "make", "source.safetensors", "out", "--to", "flax", "--parts", 3, "-o", "work.json")
    text = call(*make).stdout
    assert "1 part, 1 file" in text
    assert "3 parts were asked for" in text
    assert "--max-shard-size" in text


def test_a_list_is_not_replaced_unless_it_is_said(call, tmp_path):
    make = ("work", "make", "source.safetensors", "out", "--to", "flax", "--parts", 1, "-o", "work.json")
    call(*make)
    assert_refused(call(*make, code=1), DestinationExists, "work.json", "--overwrite")
    call(*make, "--overwrite", "--quiet")
    weights = (tmp_path / "source.safetensors").read_bytes()
    done = call(*make[:-1], "source.safetensors", "--overwrite", code=1)
    assert_refused(done, DestinationExists, "source.safetensors", "not a work list")
    assert (tmp_path / "source.safetensors").read_bytes() == weights


def test_a_part_that_is_not_there_and_an_edited_list(call, tmp_path):
    make = ("work", "make", "source.safetensors", "out", "--to", "flax", "--parts", 1, "-o", "work.json")
    call(*make)
    assert_refused(call("work", "run", "work.json", "--part", 2, code=2), UsageError, "1 part", "--part 1")
    path = tmp_path / "work.json"
    path.write_text(path.read_text().replace('"flax"', '"torch"'))
    assert_refused(call("work", "run", "work.json", "--part", 1, code=3), MalformedFile, "edited")


def test_convert_resumes_and_writes_a_manifest(call, tmp_path):
    convert = ("convert", "source.safetensors", "out/", "--to", "flax", "--max-shard-size", "3kB")
    call(*convert, "--resume")
    call(*convert, "--resume")
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)
    assert_refused(call(*convert, "--resume", "--overwrite", code=2), UsageError, "--overwrite", "--resume")
    call("convert", "source.safetensors", "a.npz", "--to", "flax", "--manifest")
    damaged = tmp_path / "a.npz"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    result = call("verify", "--manifest", "a.npz", code=1)
    assert "a.npz: the values of 1 tensor differ" in result.stdout
    assert "damaged: 1 file" in result.stdout


@pytest.mark.parametrize(
    "words", [("a", "b", "--manifest"), ("a", "--manifest", "--dtype", "float32"), ("a",)]
)
def test_verify_takes_one_checkpoint_with_a_manifest_and_two_without(call, words):
    assert "Error" in call("verify", *words, code=2).stderr


def test_the_schema_of_a_list_has_every_option(call, tmp_path):
    (tmp_path / "rules.toml").write_text(
        '[[rule]]\nsource = "layers.{i:int}.{x}"\nrename = "blocks.{i:int}.{x}"\n'
    )
    options = ("--to", "flax", "--format", "safetensors", "--layout", "torch", "--rules", "rules.toml")
    options += ("--only", "layers=3", "--accept-guesses", "--allow-missing", "a", "--allow-unexpected", "b")
    options += ("--allow-mismatched", "c", "--allow-unclaimed", "d", "--allow-inexact", "--follow-links")
    options += ("--dtype", "float32", "--dtype", "**.bias=bfloat16", "--model", "none", "--parts", 1)
    call("work", "make", "source.safetensors", "out", *options, "-o", "work.json")
    document = json.loads((tmp_path / "work.json").read_text())
    check_document("work-list", document)
    options = json.loads((SCHEMAS / "work-list.json").read_text())["properties"]["options"]["properties"]
    assert set(GivenOptions.__annotations__) | {"to"} == set(options)
    assert options.keys() - document["options"].keys() == {
        "entry",
        "like",
        "max_shard_size",
        "recipe",
        "step",
    }
    call("work", "run", "work.json", "--part", 1)
    call("work", "finish", "work.json")

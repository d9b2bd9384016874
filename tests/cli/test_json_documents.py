"""Every JSON document that the command prints is what ``docs/schemas`` says; errors are documents, too."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from jsonschema import ValidationError
from safetensors.numpy import save_file
from support.schemas import SCHEMAS, check_document

import bridge_core
from bridge_core.cli import main


def run(*args, code=0):
    result = CliRunner().invoke(main, [*map(str, args), "--json"])
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {"fc.weight": np.ones((3, 4), "f4"), "fc.bias": np.ones(3, "f4")}
    arrays |= {"norm.weight": np.ones(3, "f4"), "norm.bias": np.ones(3, "f4")}
    arrays |= {"norm.running_mean": np.ones(3, "f4"), "norm.running_var": np.ones(3, "f4")}
    arrays |= {"norm.num_batches_tracked": np.array(3), "cls_token": np.ones((1, 1, 4), "f4")}
    save_file(arrays, path, metadata={"author": "me"})
    return path


@pytest.fixture
def undecided(tmp_path):
    path = tmp_path / "undecided.safetensors"
    save_file({"fc.weight": np.ones((3, 4), "f4"), "gate_weight": np.ones((3, 4), "f4")}, path)
    return path


def test_each_command(source, undecided, tmp_path):
    flax, again = tmp_path / "model.msgpack", tmp_path / "again.safetensors"
    check_document("plan", run("plan", source, "--to", "flax"))
    check_document("convert", run("convert", source, flax, "--to", "flax"))
    check_document("convert", run("convert", flax, again, "--to", "torch", "--dtype", "float16"))
    check_document("verify", run("verify", source, flax))
    check_document("verify", run("verify", source, again, code=1))
    check_document("diff", run("diff", source, undecided, code=1))
    for path in (source, flax, again):
        check_document("inspect", run("inspect", path))
    plan = run("plan", undecided, "--to", "flax", code=1)
    check_document("plan", plan)
    assert plan["ambiguous"]
    check_document("plugins", run("plugins"))
    check_document("plugins", run("plugins", "--disable-plugin", "hdf5"))
    rules = tmp_path / "rules.toml"
    rules.write_text(
        'source = "torch"\ntarget = "flax"\n[[rule]]\nsource = "fc.**"\nrename = "head.**"\n'
        '[[rule]]\nsource = "gone"\ndrop = "no use"\noptional = true\n'
    )
    check_document("rules-check", run("rules", "check", rules))
    check_document("rules-check", run("rules", "check", rules, "--source", source))


def test_a_proof(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "proved_document.py").write_text(
        "import numpy as np\nfrom torch import nn\n"
        "def one(): return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)).eval()\n"
        "def other(): return nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.BatchNorm2d(3)).eval()\n"
        "def inputs(): return np.random.default_rng(0).standard_normal((2, 2, 6, 7)).astype('f4')\n"
    )
    names = [f"proved_document:{name}" for name in ("one", "other", "inputs")]
    words = ["prove", "--source-model", names[0], "--inputs", names[2], "--model"]
    equal, different = run(*words, names[0]), run(*words, names[1], code=1)
    check_document("prove", equal)
    check_document("prove", different)
    assert equal["next_step"]
    assert different["first_difference"]["output_error"] == "Infinity"
    assert different["error"] == "Infinity"
    sys.modules.pop("proved_document", None)


def test_what_turned_one_file_into_the_other(source, tmp_path):
    numbers = np.random.default_rng(0).standard_normal((4, 6, 6)).astype("f4")
    left = {"a": numbers[0], "b": numbers[1], "c": numbers[2], "old": numbers[3]}
    right = {"a": numbers[0].T, "b": numbers[2], "c": numbers[1], "new": numbers[3]}
    for name, arrays in (("left", left), ("right", right)):
        save_file({key: np.array(array, order="C") for key, array in arrays.items()}, tmp_path / name)
    document = run("diff", tmp_path / "left", tmp_path / "right", code=1)
    check_document("diff", document)
    kinds = [entry["relation"]["kind"] for entry in document["differing"]]
    assert kinds == ["transposed", "other tensor", "other tensor"]
    texts = [mistake["text"] for mistake in document["mistakes"]]
    assert texts == ["their names were swapped", "transposed"]
    (same,) = document["same_content"]
    assert (same["right"], same["relation"]["other"]) == ("new", "old")
    plain = run("diff", "--no-why", tmp_path / "left", tmp_path / "right", code=1)
    check_document("diff", plain)
    assert "mistakes" not in plain


def test_verify_names_what_is_wrong_with_a_conversion(tmp_path):
    weight = np.random.default_rng(0).standard_normal((6, 8)).astype("f4")
    bias = weight[:, 0].copy()
    save_file({"fc.weight": weight, "fc.bias": bias}, tmp_path / "a.safetensors")
    save_file({"fc.weight": weight * 2, "fc.bias": bias}, tmp_path / "b.safetensors")
    run("convert", tmp_path / "b.safetensors", tmp_path / "b.msgpack", "--to", "flax")
    document = run("verify", tmp_path / "a.safetensors", tmp_path / "b.msgpack", code=1)
    check_document("verify", document)
    assert document["summary"] == "1 tensor differs, as if scaled by 2"


def test_each_kind_of_error(source, undecided, tmp_path, monkeypatch):
    missing = run("inspect", tmp_path / "nope", code=2)
    assert (missing["code"], missing["path"]) == ("CKB-202", str(tmp_path / "nope"))
    ambiguous = run("convert", undecided, tmp_path / "out.msgpack", "--to", "flax", code=1)
    assert ambiguous["code"] == "CKB-104"
    assert "fc.weight" in ambiguous["keys"]
    command = [
        "ckptbridge",
        "convert",
        str(undecided),
        str(tmp_path / "out.msgpack"),
        "--to",
        "flax",
        "--json",
    ]
    assert ambiguous["next"]
    assert all(words[: len(command)] == command and len(words) > len(command) for words in ambiguous["next"])
    wrong = run("plan", source, "--to", "flax", "--bogus", code=2)
    assert wrong["code"] == "CKB-200"
    assert "--bogus" in wrong["message"]
    existing = run("convert", source, source, "--to", "flax", code=1)
    assert existing["code"] == "CKB-109"
    raised = {}
    for error in (
        MemoryError(),
        OSError(5, "Input/output error", "file"),
        KeyboardInterrupt(),
        SystemExit(3),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr("bridge_core.conversion.plan_conversion", fail)
        code = 130 if isinstance(error, KeyboardInterrupt) else 4
        raised[type(error)] = run("plan", source, "--to", "flax", code=code)
    assert raised[KeyboardInterrupt]["code"] == "CKB-130"
    assert raised[OSError]["path"] == "file"
    for document in (missing, ambiguous, wrong, existing, *raised.values()):
        check_document("error", document)


def test_the_next_commands_go_on(tmp_path):
    """The command that an error offers, run as it is, does what was asked for."""
    source = tmp_path / "one.safetensors"
    save_file({"tok_embeddings.weight": np.ones((5, 4), "f4")}, source)
    refused = run("convert", source, tmp_path / "out.msgpack", "--to", "flax", code=1)
    words = next(words for words in refused["next"] if "--accept-guesses" in words)
    done = subprocess.run(
        [sys.executable, "-m", "bridge_core.cli", *words[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_document("convert", json.loads(done.stdout))


def test_a_document_with_another_key_is_noticed():
    document = {"code": "CKB-200", "message": "", "keys": [], "path": None, "hint": None, "next": []}
    check_document("error", document)
    for wrong in ({**document, "more": 1}, {**document, "code": "CKB-2"}, {"code": "CKB-200"}):
        with pytest.raises(ValidationError):
            check_document("error", wrong)


def test_the_list_of_codes_is_complete():
    """``docs/errors.md`` lists each class with its code, exit code and built-in class."""
    rows = {}
    for line in (SCHEMAS.parent / "errors.md").read_text().splitlines():
        if line.startswith("| CKB-"):
            code, name, status, built_in = (cell.strip(" `") for cell in line.strip("|").split("|")[:4])
            rows[code] = (name, int(status), built_in)
    for code, (name, status, built_in) in rows.items():
        if name.startswith("("):  # ends that are not errors of ours
            continue
        kind = getattr(bridge_core, name)
        assert (kind.code, kind.exit_code) == (code, status)
        bases = [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]
        narrow = [base for base in bases if base not in ("Exception", "BaseException", "object")]
        assert (built_in or "Exception") in (narrow or ["Exception"])
    listed = {name for name, _, _ in rows.values()}
    assert {name for name in bridge_core.__all__ if _is_error(name)} <= listed
    assert pickle.loads(pickle.dumps(bridge_core.PlanError("x"))).code in rows


def _is_error(name):
    value = getattr(bridge_core, name)
    return isinstance(value, type) and issubclass(value, bridge_core.BridgeError)


def test_names_with_slashes_and_boxes(tmp_path):
    tensors = {"params/fc/kernel/value": np.ones((3, 4), "f4"), "params/fc/bias/value": np.ones(4, "f4")}
    np.savez(tmp_path / "a.npz", **tensors)
    run("convert", tmp_path / "a.npz", tmp_path / "t.safetensors", "--to", "torch")
    source, made = (run("inspect", tmp_path / name) for name in ("a.npz", "t.safetensors"))
    for document in (source, made):
        check_document("inspect", document)
    assert source["names"] == {"separator": "/", "boxes": ["value"], "boxed": 2}
    assert made["metadata"]["separators"] == {"flax": "/"}
    assert made["metadata"]["boxes"] == {"fc.weight": "value", "fc.bias": "value"}

"""Mistakes that new users make: each is refused by a fitting class, and the text names what to change."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from flax.serialization import to_bytes
from safetensors.numpy import save_file
from support.errors import refused
from support.schemas import check_document

import bridge_core
import bridge_torch
from bridge_core import (
    AmbiguousLayerError,
    BridgeError,
    MismatchError,
    Rule,
    RuleError,
    SourceNotFound,
    SystemFailure,
    UnknownKey,
    UnsupportedFeature,
    UsageError,
    as_state,
    compare_states,
    convert,
    load_rules,
    load_values,
    open_state,
    plan_conversion,
    save_state,
)
from bridge_core.cli import main
from bridge_core.conversion import from_neutral, to_neutral
from bridge_core.messages import for_command_line

CLEAR = {"fc.weight": np.ones((4, 3), "f4"), "fc.bias": np.ones(4, "f4")}
UNCLEAR = {"fc.weight": np.ones((4, 4), "f4")}
_ARGUMENT = re.compile(r"\b([a-z_]+)=[^()]*? \(--[a-z-]+")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(CLEAR, "model.safetensors")
    save_file(UNCLEAR, "unclear.safetensors")
    return "model.safetensors"


def document(*words, code):
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == code, result.stderr
    found = json.loads(result.stdout)
    check_document("error", found)
    return found


@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("to", ["flax"], "neutral"),
        ("to", "neutrl", "'neutral'?"),
        ("format", 3, "safetensors"),
        ("layout", "jax", "'flax'?"),
        ("accept_guesses", "yes", "accept_guesses="),
        ("allow_missing", 3, "--allow-missing"),
        ("allow_unexpected", [3], "--allow-unexpected"),
        ("dtype", "bf16", "'bfloat16'?"),
        ("dtype", np.float16, "'float16'?"),
        ("dtype", "int8", "floating-point"),
        ("workers", "2", "--workers"),
        ("max_ram", [], "512MiB"),
        ("overwrite", "no", "overwrite="),
        ("verify", "no", "verify="),
        ("follow_links", "no", "follow_links="),
        ("progress", 3, "progress="),
        ("registry", 3, "registry="),
        ("model", np.ndarray, "the class ndarray"),
        ("like", {}, "like="),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_argument(source, argument, value, named):
    with refused(UsageError, named):
        convert(source, "out.msgpack", **{"to": "flax", argument: value})


@pytest.mark.parametrize("call", [compare_states, load_values, bridge_core.FlatState])
def test_what_is_not_a_state_is_refused(call):
    with refused(UsageError, "int", hint="dict"):
        call(*[3] * (2 if call is compare_states else 1))


def test_wrong_types_of_other_calls(source, tmp_path):
    for option in ({"base_name": 3}, {"sidecar_files": [1]}):
        with refused(UsageError, *option):
            save_state(CLEAR, tmp_path / "folder", **option)
    with refused(UsageError, "3"):
        load_rules(3)
    for make in (
        lambda: Rule.rename(3, "a"),
        lambda: Rule.drop("a", 3),
        lambda: Rule.rearrange("a", "b", [3]),
    ):
        with refused(RuleError, "3"):
            make()
    with refused(UsageError, "'jax'", "--layout", hint="neutral"):
        open_state(source, layout="jax")


def test_a_tensor_that_numpy_cannot_read_is_named():
    class Odd:
        def __array__(self, *_args, **_more):
            raise TypeError("no such scalar type")

    with refused(UnsupportedFeature, "Odd", "no such scalar type", hint="to_neutral", key=("a",)):
        as_state({"a": Odd()})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mine:", ("'mine:'",)),
        ("mine:net", ("mine", "Did you mean 'neat'?")),
        ("mine:nothing", ("None",)),
        ("mine:misses", ("AttributeError", "nope")),
        ("needs:make", ("importing needs", "not_installed_here", "install")),
        ("mine.py:neat", ("no module", "mine:neat")),
        ("broken:make", ("SyntaxError",)),
    ],
)
def test_a_model_that_cannot_be_made(source, monkeypatch, tmp_path, text, named):
    (tmp_path / "mine.py").write_text(
        "def neat(): return 3\ndef nothing(): pass\ndef misses(): return 'a'.nope\n"
    )
    (tmp_path / "needs.py").write_text("import not_installed_here\n")
    (tmp_path / "broken.py").write_text("def (\n")
    for module in ("mine", "needs", "broken"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    with refused(UsageError, *named):
        plan_conversion(source, to="flax", model=text)


def test_a_missing_file_suggests_the_nearest_one(source, tmp_path):
    with refused(SourceNotFound, "modle.safetensors", hint="'model.safetensors'"):
        open_state("modle.safetensors")
    with refused(SourceNotFound, hint="'model.safetensors'"):
        open_state("model.safetensor")
    (tmp_path / "gone").symlink_to("nowhere")
    with refused(SourceNotFound, "symbolic link", hint="Check"):
        open_state("gone")


def test_a_closed_file_is_told_once(source):
    with open_state(source) as state:
        pass
    with refused(SystemFailure, "closed", hint="with") as caught:
        load_values(state)
    assert str(caught.value).count("CKB-400") == 1


def test_refusals_of_a_plan_name_the_file_and_its_keys(source):
    assert document("convert", "unclear.safetensors", "o.msgpack", "--to", "flax", code=1)["path"] == (
        "unclear.safetensors"
    )
    template = {"params": {"fc": {"kernel": np.ones((5, 4), "f4"), "bias": np.ones(4, "f4")}}}
    Path("like.msgpack").write_bytes(to_bytes(template))
    found = document("convert", source, "o.msgpack", "--to", "flax", "--like", "like.msgpack", code=1)
    assert found["keys"] == ["fc.weight"]
    assert "params.fc.kernel" in found["message"]


def test_shapes_and_dtypes_are_not_folded():
    like = {"params": {f"l{i}": {"kernel": np.ones((3 + i, 4), "f4")} for i in range(2)}}
    source = {f"l{i}.weight": np.ones((4, 5), "f4") for i in range(2)}
    with refused(MismatchError, "float32[3, 4]", "float32[4, 4]", "got float32[5, 4]"):
        plan_conversion(as_state(source, layout="torch"), to="flax", like=as_state(like, layout="flax"))


def arguments_named(error):
    return set(_ARGUMENT.findall(str(error)))


@pytest.mark.parametrize("framework", ["flax", "torch"])
def test_hints_of_calls_in_memory_name_only_their_arguments(framework):
    cases = [
        (bridge_torch.to_neutral(UNCLEAR), {}),
        (dict(UNCLEAR), {}),
        (bridge_torch.to_neutral(CLEAR), {"like": "a"}),
    ]
    known, texts = set(inspect.signature(from_neutral).parameters), []
    for neutral, options in cases:
        try:
            from_neutral(neutral, framework=framework, **options)
        except BridgeError as err:
            texts.append(err)
    assert len(texts) > 1
    for error in texts:
        assert arguments_named(error) <= known, error
    with pytest.raises(UsageError) as caught:
        to_neutral(CLEAR, framework="torch", module=as_state({}, layout="flax"))
    assert arguments_named(caught.value) <= set(inspect.signature(to_neutral).parameters)
    with refused(AmbiguousLayerError, "fc.weight", hint="to_neutral"):
        from_neutral(bridge_torch.to_neutral(UNCLEAR), framework="flax")


def test_a_command_gets_the_value_that_a_hint_advises():
    assert for_command_line('Pass dtype="float32" (--dtype).') == "Pass --dtype float32."
    assert for_command_line('Pass like="a.pt" (--like FILE).') == "Pass --like FILE."
    assert for_command_line("expected like= (--like)") == "expected --like"


def test_rules_check_names_no_option_of_other_commands(source):
    Path("like.msgpack").write_bytes(
        to_bytes({"params": {"fc": {"kernel": np.ones((3, 4), "f4"), "bias": np.ones(4, "f4")}}})
    )
    Path("rules.toml").write_text(
        'source = "torch"\ntarget = "flax"\n[[rule]]\nsource = "fc.*"\nrename = "q.*"\n'
    )
    words = ["rules", "check", "rules.toml", "--source", source, "--like", "like.msgpack"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "--like" in result.stderr
    assert "--allow" not in result.stderr


def test_each_wrong_rule_is_on_its_own_line(source):
    Path("rules.toml").write_text('[[rule]]\nsource = "a"\n' * 3)
    result = CliRunner().invoke(main, ["plan", source, "--to", "flax", "--rules", "rules.toml"])
    assert [line.strip().split(" ")[0] for line in result.stderr.splitlines()][1:] == [
        f"rules.toml:{number}:" for number in (1, 3, 5)
    ]


def test_explain_and_groups_without_a_command(source):
    result = CliRunner().invoke(main, ["explain", source, "fc.weigth", "--to", "flax"])
    assert result.exit_code == UnknownKey.exit_code
    assert all(text in result.stderr for text in (UnknownKey.code, source, "fc.weight"))
    assert "\n" not in document("rules", code=2)["message"]

"""The name that ``inspect`` prints is accepted everywhere, and is what every output has."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from support.arrays import random_array
from support.errors import refused
from support.rule_files import saved

import bridge_flax
import bridge_torch
from bridge_core import FlatState, Rule, convert, open_state, plan_conversion, save_state
from bridge_core.cli import main
from bridge_core.errors import MismatchError, RuleError, UnclaimedTensorError
from bridge_core.plugins import default_registry

serialization = pytest.importorskip("flax.serialization")
traverse_util = pytest.importorskip("flax.traverse_util")
torch = pytest.importorskip("torch")


def array(*shape):
    return random_array(shape, "float32", seed=0)


LAYER = {"kernel": array(4, 5), "bias": array(5)}
TREE = {
    "enc": {"fc": LAYER, "norm": {"scale": array(5), "bias": array(5)}},
    "layers": {"0": LAYER, "10": LAYER},
    "extra": {"kernel": array(5, 2), "bias": array(2)},
    "odd": {"kernel": array(7)},
}
TORCH = {
    "enc.fc.weight": LAYER["kernel"].T,
    "enc.fc.bias": LAYER["bias"],
    "enc.norm.weight": array(5),
    "enc.norm.bias": array(5),
    **{
        f"layers.{i}.{leaf}": LAYER[leaf if leaf == "bias" else "kernel"].T
        for i in (0, 10)
        for leaf in ("weight", "bias")
    },
    "odd.kernel": array(7),
}
"""The torch model of the tree without ``extra``."""


def boxed(tree):
    return {name: boxed(x) if isinstance(x, dict) else {"value": x} for name, x in tree.items()}


def half_boxed(tree):
    return {
        name: half_boxed(x) if isinstance(x, dict) else {"value": x} if x.ndim > 1 else x
        for name, x in tree.items()
    }


def listed(tree):
    return {**tree, "layers": [LAYER, *([{}] * 9), LAYER]}


def nested(tree, path):
    path.write_bytes(serialization.to_bytes(tree))


def flat(separator):
    def write(tree, path):
        tensors = {
            name: np.ascontiguousarray(x)
            for name, x in traverse_util.flatten_dict(tree, sep=separator).items()
        }
        if path.suffix == ".npz":
            np.savez(path, **tensors)
        else:
            save_file(tensors, path)

    return write


def orbax(tree, path):
    """Write an Orbax folder."""
    if "orbax" not in default_registry().folder_formats:
        pytest.skip("ckptbridge-orbax is not installed")
    tensors = {("params", *key[1:]): x for key, x in traverse_util.flatten_dict(tree).items()}
    save_state(FlatState(tensors, layout="flax"), path, format="orbax")


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to store a tree: the suffix, the writer, and what the tree has in addition."""

    suffix: str
    write: object
    change: object = lambda tree: tree
    collection: bool = True
    box: str = ""
    boxes_all: bool = True

    def store(self, folder):
        path = folder / f"f{self.suffix}"
        tree = self.change(TREE)
        self.write({"params": tree} if self.collection else tree, path)
        return path

    def printed(self, name):
        is_boxed = self.box and (self.boxes_all or (name.endswith("kernel") and "odd" not in name))
        return ("params." if self.collection else "") + name + (f".{self.box}" if is_boxed else "")

    def spellings(self, name):
        """All names that a user may write; the printed one first."""
        printed = self.printed(name)
        names = [printed, name, printed.removeprefix("params.")]
        if printed.endswith(".value"):
            names.append(printed.removesuffix(".value"))
        return [*dict.fromkeys([*names, *(one.replace(".", "/") for one in names)])]


FORMS = {
    "nested": Form(".msgpack", nested),
    "nested, bare": Form(".msgpack", nested, collection=False),
    "lists": Form(".msgpack", nested, listed),
    "dotted": Form(".safetensors", flat(".")),
    "slashes": Form(".safetensors", flat("/")),
    "slashes, bare": Form(".safetensors", flat("/"), collection=False),
    "npz": Form(".npz", flat("/")),
    "nested boxes": Form(".msgpack", nested, boxed, box="value"),
    "dotted boxes, bare": Form(".safetensors", flat("."), boxed, collection=False, box="value"),
    "slashed boxes": Form(".npz", flat("/"), boxed, box="value"),
    "orbax": Form("", orbax),
    "orbax boxes": Form("", orbax, boxed, box="value"),
    "some boxes": Form(".safetensors", flat("/"), half_boxed, box="value", boxes_all=False),
}
NAMES = [".".join(key) for key in traverse_util.flatten_dict(TREE)]


QUICK = ("slashed boxes",)
"""Forms that are tried each time."""


@pytest.fixture(params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FORMS])
def form(request):
    return FORMS[request.param]


@pytest.fixture
def path(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return form.store(tmp_path)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def names_of(document):
    return {name for step in document["steps"] for name in step["sources"]}


def test_inspect_and_plans_have_one_name(form, path):
    expected = {form.printed(name) for name in NAMES}
    assert set(json.loads(run("inspect", path, "--json"))["tensors"]) == expected
    text = run("inspect", path)
    assert all(name in text for name in expected if "layers" not in name)
    document = json.loads(run("plan", path, "--to", "torch", "--layout", "flax", "--json", code=1))
    assert names_of(document) == expected
    assert document["unclaimed"] == list(document["refused"]) == [form.printed("odd.kernel")]


def test_errors_have_the_printed_name(form, path):
    odd, extra = form.printed("odd.kernel"), [form.printed(f"extra.{leaf}") for leaf in ("kernel", "bias")]
    with refused(UnclaimedTensorError, odd) as caught:
        plan_conversion(path, to="torch", layout="flax")
    assert list(caught.value.reasons) == [odd]
    ending = ("--to", "torch", "--layout", "flax", "--json")
    error = json.loads(run("convert", path, path.with_name("x.safetensors"), *ending, code=1))
    assert error["keys"] == [odd]
    assert any(odd in text for command in error["next"] for text in command)
    like = saved(TORCH, "torch", path.with_name("t.safetensors"))
    with refused(MismatchError, *extra) as caught:
        plan_conversion(path, to="torch", layout="flax", like=like)
    assert sorted(caught.value.unexpected) == sorted(extra)
    with refused(MismatchError, *extra) as caught:
        plan_conversion(like, to="flax", like=path)
    assert sorted(caught.value.missing) == sorted(extra)


def test_each_spelling_explains_a_tensor(form, path):
    for name in ("extra.kernel", "layers.10.bias"):
        for spelling in form.spellings(name):
            text = run("explain", path, spelling, "--to", "torch", "--layout", "flax")
            assert f"source   {form.printed(name)}  float32" in text, spelling
            assert text.count("source   ") == 1, (spelling, text)


def test_each_spelling_allows(form, path):
    plan = plan_conversion(path, to="torch", layout="flax", check=False)
    assert not plan.ok
    for spelling in form.spellings("odd.kernel"):
        plan = plan_conversion(path, to="torch", layout="flax", allow_unclaimed=spelling, check=False)
        assert plan.ok, spelling
        assert plan.to_json()["unclaimed"] == [form.printed("odd.kernel")]
    like = saved(TORCH, "torch", path.with_name("t.safetensors"))
    extra = [form.printed(f"extra.{leaf}") for leaf in ("kernel", "bias")]
    for patterns in zip(*(form.spellings(f"extra.{leaf}") for leaf in ("kernel", "bias")), strict=False):
        plan = plan_conversion(path, to="torch", layout="flax", like=like, allow_unexpected=patterns)
        assert sorted(entry["name"] for entry in plan.to_json()["left_out"]) == sorted(extra)
        plan = plan_conversion(like, to="flax", like=path, allow_missing=patterns)
        assert sorted(plan.to_json()["allowed_missing"]) == sorted(extra)
    odd = saved({**TORCH, "enc.fc.bias": array(9)}, "torch", path.with_name("u.safetensors"))
    for spelling in form.spellings("enc.fc.bias"):
        allowed = {"allow_missing": "**", "allow_mismatched": spelling}
        plan = plan_conversion(odd, to="flax", like=path, **allowed)
        assert form.printed("enc.fc.bias") in plan.to_json()["allowed_missing"]


def test_each_spelling_is_a_pattern_of_rules(form, path):
    drop = [Rule.drop("odd.kernel", "odd", layouts=("flax", "torch"))]
    for spelling in form.spellings("extra.kernel"):
        rule = Rule.drop(spelling, "not wanted", layouts=("flax", "torch"))
        plan = plan_conversion(path, to="torch", layout="flax", rules=[rule, *drop])
        assert plan.to_json()["dropped"][0]["key"] == form.printed("extra.kernel"), spelling
        rule = Rule.rearrange(spelling, "table", "a b -> b a", layouts=("flax", "torch"))
        plan = plan_conversion(path, to="torch", layout="flax", rules=[rule, *drop])
        assert ("table",) in plan.target_specs(), spelling
        new = spelling.replace("extra", "more")
        rules = [Rule.rename(spelling, new), *drop]
        plan = plan_conversion(path, to="torch", layout="flax", rules=rules)
        assert ("more", "weight") in plan.target_specs(), spelling
    for head in ("", "params.") if form.collection else ("",):
        for path_of_layer in (f"{head}extra", f"{head}extra".replace(".", "/"), f"{head}enc/fc"):
            rule = Rule.layer(path_of_layer, "linear", layouts=("flax", "torch"))
            plan = plan_conversion(path, to="torch", layout="flax", rules=[rule, *drop])
            assert plan.evidence["rule"], path_of_layer


def test_each_spelling_serves_in_two_steps(form, path):
    like = saved({**TORCH, "table": array(2, 5)}, "torch", path.with_name("t.safetensors"))
    neutral = path.with_name("n.safetensors")
    for spelling in form.spellings("extra.kernel"):
        rules = [Rule.rearrange(spelling, "table", "a b -> b a", layouts=("flax", "torch"))]
        convert(path, neutral, to="neutral", layout="flax", rules=rules, overwrite=True)
        for again in (rules, ()):
            plan = plan_conversion(neutral, to="torch", like=like, rules=again, allow_unexpected="extra.bias")
            assert ("table",) in plan.target_specs(), spelling
    state = open_state(path, layout="flax")
    made = bridge_flax.to_neutral(state)
    for patterns in zip(*(form.spellings(f"extra.{leaf}") for leaf in ("kernel", "bias")), strict=False):
        target = {name: torch.zeros(array.shape) for name, array in TORCH.items()}
        assert set(bridge_torch.from_neutral(made, like=target, allow_unexpected=patterns)) == set(TORCH)
    state.close()


def test_each_spelling_is_checked_in_a_rule_file(form, path):
    rules = path.with_name("r.toml")
    for spelling in form.spellings("extra.kernel"):
        rules.write_text(
            'source = "flax"\ntarget = "torch"\n'
            f'[[rule]]\nsource = "{spelling}"\ndrop = "not wanted"\n'
            f'[[rule]]\nsource = "{form.printed("odd.kernel")}"\ndrop = "not wanted"\n'
        )
        assert "source 1" in run("rules", "check", rules, "--source", path, "--layout", "flax")


@pytest.mark.parametrize("separator", [".", "/"])
def test_patterns_with_wildcards_and_captures(form, path, separator):
    head = "params." if form.collection else ""
    patterns = {
        f"{head}layers.{{i:int}}.**": f"{head}blocks.{{i:int}}.**",
        f"{head}extra.*": f"{head}more.*",
        **({f"{head}enc.*.*.value": f"{head}enc.*.*.value"} if form.box and form.boxes_all else {}),
    }
    rules = [
        Rule.rename(old.replace(".", separator), new.replace(".", separator)) for old, new in patterns.items()
    ]
    allowed = {"allow_unclaimed": f"{head}**.kernel.value" if form.box and form.boxes_all else "**.kernel"}
    plan = plan_conversion(path, to="torch", layout="flax", rules=rules, **allowed)
    made = {".".join(key) for key in plan.target_specs()}
    assert made >= {"blocks.0.weight", "blocks.10.bias", "more.weight", "enc.fc.weight", "enc.norm.weight"}


def test_an_entry_is_named_by_either_separator(form, path):
    head = "params." if form.collection else ""
    for entry in (f"{head}enc", f"{head}enc".replace(".", "/"), *(["params"] if form.collection else [])):
        document = json.loads(run("inspect", path, "--entry", entry, "--json"))
        dotted = entry.replace("/", ".")
        expected = {form.printed(name) for name in NAMES}
        below = {name.removeprefix(f"{dotted}.") for name in expected if name.startswith(f"{dotted}.")}
        assert set(document["tensors"]) == below
        plan = plan_conversion(path, to="torch", layout="flax", entry=entry, check=False)
        assert {key for key in plan.specs} == {tuple(name.split(".")) for name in below}


def test_inspect_shows_separators_and_boxes(form, path):
    document, text = json.loads(run("inspect", path, "--json")), run("inspect", path)
    joined = (
        "/"
        if form.write not in (nested, orbax, FORMS["dotted"].write, FORMS["dotted boxes, bare"].write)
        else "."
    )
    if joined == "." and not form.box:
        assert "names" not in document
        assert "names:" not in text
        return
    assert document["names"]["separator"] == joined
    assert document["names"]["boxes"] == ([form.box] if form.box else [])
    shown = text.partition("\nnames: ")[2].partition("\n")[0]
    assert ("joined by '/'" in shown, "named 'value'" in shown) == (joined == "/", bool(form.box))


HAIKU = {"mlp/~/linear_0/w": array(4, 5), "mlp/~/linear_0/b": array(5)}


@pytest.mark.parametrize("stored", ["npz", "msgpack"])
def test_names_of_haiku(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, name = tmp_path / f"h.{stored}", "mlp.~.linear_0.w"
    if stored == "npz":
        np.savez(path, **HAIKU)
    else:
        nested({"mlp/~/linear_0": {"w": array(4, 5), "b": array(5)}}, path)
        name = "mlp/~/linear_0.w"
    assert name in json.loads(run("inspect", path, "--json"))["tensors"]
    with refused(UnclaimedTensorError, name) as caught:
        plan_conversion(path, to="torch", layout="flax")
    assert name in caught.value.reasons
    spellings = [name] if stored == "msgpack" else [name, "mlp/~/linear_0/w"]
    for spelling in spellings:
        text = run("explain", path, spelling, "--to", "torch", "--layout", "flax")
        assert f"source   {name}" in text
        rule = Rule.rearrange(spelling, "linear_0.weight", "a b -> b a", layouts=("flax", "torch"))
        bias = spelling.removesuffix("w") + "b"
        plan = plan_conversion(path, to="torch", layout="flax", rules=[rule, Rule.drop(bias, "unused")])
        assert set(plan.target_specs()) == {("linear_0", "weight")}
        assert plan_conversion(path, to="torch", layout="flax", allow_unclaimed=[spelling, bias]).ok


def test_a_pattern_with_two_meanings_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "f.msgpack"
    nested({"a/pos": array(3, 4), "a": {"pos": array(3, 4)}, "fc": LAYER}, path)
    drop = Rule.drop("a/pos", "unused", layouts=("flax", "torch"))
    for options in ({"rules": drop}, {"allow_unexpected": "a/pos"}):
        with refused(RuleError, "'a/pos'", "'a.pos'", hint="dot"):
            plan_conversion(path, to="torch", **options)
    drop = Rule.drop("a.pos", "unused", layouts=("flax", "torch"))
    plan = plan_conversion(path, to="torch", rules=drop)
    assert [dropped.key for dropped in plan.dropped] == [("a", "pos")]
    for name in ("a/pos", "a.pos"):
        assert f"source   {name}  float32" in run("explain", path, name, "--to", "torch")

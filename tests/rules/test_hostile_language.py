"""Rule files that would take minutes or gigabytes, or end in a traceback, are refused at once."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.errors import refused

from bridge_core import Rule, convert, load_rules, plan_conversion
from bridge_core.errors import LimitExceeded, RuleError

HEAD = 'source = "torch"\ntarget = "flax"\n'


def chain(count, sign, last):
    sizes = [f'a{i} = "a{i + 1} {sign} a{i + 1}"' for i in range(count)]
    return "\n".join(["[sizes]", *sizes, f"a{count} = {last}", ""])


SPLIT = '[[rule]]\nsource = "w"\ntarget = "k"\nrearrange = "(a0 b) c -> c a0 b"\n'
INDEX = '[[rule]]\nsource = "w{n:int}"\ntarget = "k{m:int}"\nwhere = ["n = m", "m < a"]\n'
TOWER = "(" * 4 + "(9999999999999999 / 9999999999999998)" + "**64)" * 4


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (chain(200, "*", 1) + SPLIT, "too many others"),
        (chain(60, "+", 0) + SPLIT, "a0 = 0"),
        (f'{INDEX}sizes = {{ a = "b", b = "a" }}\n', "depends on itself"),
        (f'[[rule]]\nsource = "w"\ntarget = "k"\nrearrange = "scale({TOWER})"\n', "a fraction of more"),
        ('[[rule]]\nsource = "w"\ntarget = "k"\nrearrange = "scale(config.huge)"\n', "finite number"),
        ('[[rule]]\nsource = "w"\ntarget = "k"\nrearrange = "offset(config.endless[0])"\n', "finite number"),
        (f'{SPLIT}sizes = {{ a0 = "config.endless[0]" }}\n', "finite number"),
        (f'{SPLIT}sizes = {{ a0 = "1e999" }}\n', "that float64 holds"),
        (f'{SPLIT}sizes = {{ a0 = "config.endless{"[0]" * 600}" }}\n', "100 operations"),
    ],
    ids=range(9),
)
def test_numbers_that_cannot_be_computed(rules, said, tmp_path):
    (tmp_path / "r.toml").write_text(HEAD + rules)
    (tmp_path / "config.json").write_text(f'{{"huge": 1{"0" * 400}, "endless": [Infinity]}}')
    source = {"w": np.ones((4, 6), np.float32), "w0": np.ones(2, np.float32)}
    save_file(source, tmp_path / "in.safetensors")
    with refused(RuleError, said):
        plan_conversion(
            tmp_path / "in.safetensors", layout="torch", to="flax", rules=load_rules(tmp_path / "r.toml")
        )


def test_much_effort_is_refused(tmp_path):
    stages = "".join(
        f'[[rule]]\nsource = "s{n}.**"\nrename = "s{n + 1}.**"\nstage = {n}\n' for n in range(40)
    )
    wide = '[tables]\nx = ["' + '", "'.join(map(str, range(256))) + '"]\n'
    wide += '[[rule]]\nsource = "{x}.{a|b|c|d|e|f|g|h}.{i|j|k|l|m|n|o|p}"\nrename = "{x}"\n'
    for text in (stages, wide):
        (tmp_path / "r.toml").write_text(HEAD + text)
        with refused(LimitExceeded, "too many"):
            load_rules(tmp_path / "r.toml")
    many = [f"w{n}" for n in range(1100)]
    with refused(RuleError, "1024"):
        Rule.rearrange(many, [f"k{n}" for n in range(1100)])
    names = ", ".join(f"a{n}" for n in range(20))
    with refused(RuleError, "16 names"):
        Rule.rename("{n:int}", ".".join(f"{{a{n}:int}}" for n in range(20)), where=f"n counts {names}")


COUNTED = """
[[rule]]
source = "l.{s:int}.{b:int}.w"
target = "k.{n:int}.w"
where = ["n counts s, b", "1 <= s <= 2", "b < BOUND"]
[[rule]]
source = "l.{s:int}.{b:int}.d"
target = "k.{n:int}.d"
where = ["n counts s, b", "1 <= s <= 2", "b == 0"]
"""


@pytest.mark.parametrize(("bound", "absent"), [(30, ""), (3, "l.1.1.w"), (3, "l.2.2.w"), (3, "none")])
def test_bounds_that_the_names_contradict_number_nothing(bound, absent, tmp_path):
    (tmp_path / "r.toml").write_text(HEAD + COUNTED.replace("BOUND", str(bound)))
    names = [f"l.{s}.{b}.w" for s in (1, 2) for b in range(3)] + ["l.1.0.d", "l.2.0.d"]
    source = {name: np.full(2, n, np.float32) for n, name in enumerate(names) if name != absent}
    rules = load_rules(tmp_path / "r.toml")
    first, there, back = (tmp_path / f"{name}.safetensors" for name in ("in", "out", "back"))
    save_file(source, first)
    convert(first, there, layout="torch", to="flax", rules=rules)
    if absent != "none":
        with refused(RuleError, "the comparisons allow", hint="--like"):
            convert(there, back, layout="flax", to="torch", rules=rules)
    like = None if absent == "none" else first  # the second rule has the numbers of the first
    convert(there, back, layout="flax", to="torch", rules=rules, like=like)
    assert {name: array[0] for name, array in load_file(back).items()} == {
        name: array[0] for name, array in source.items()
    }


def test_a_stack_is_as_long_as_what_is_counted(tmp_path):
    rule = """[[rule]]\nsource = "l.{i:int}.w"\ntarget = "k"\nrearrange = "a -> n a"\n"""
    (tmp_path / "r.toml").write_text(f'{HEAD}{rule}where = ["n counts i", "i < 3"]\n')
    rules, there = load_rules(tmp_path / "r.toml"), tmp_path / "out.safetensors"
    save_file({f"l.{i}.w": np.full(2, i, np.float32) for i in (0, 2)}, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", there, layout="torch", to="flax", rules=rules)
    with refused(RuleError, "'n' has size 2", "3 are counted"):
        convert(there, tmp_path / "back.safetensors", layout="flax", to="torch", rules=rules)


def test_a_size_that_only_a_template_shows(tmp_path):
    rule = """[[rule]]\nsource = "l.{i:int}.w"\ntarget = "k.{j:int}"\nwhere = "i = block*2 + j"
rearrange = ["pad(-1, 7)", "o e -> block e o"]\n"""
    (tmp_path / "r.toml").write_text(HEAD + rule)
    rules, (first, there) = load_rules(tmp_path / "r.toml"), (tmp_path / f"{n}.safetensors" for n in "ab")
    save_file({f"l.{i}.w": np.full((2, 3), i, np.float32) for i in range(2)}, first)
    convert(first, there, layout="torch", to="flax", rules=rules)
    with refused(RuleError, "the size is not known", hint="--like"):
        convert(there, tmp_path / "back.safetensors", layout="flax", to="torch", rules=rules)

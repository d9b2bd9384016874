"""Every example of the reference of rules does what is written below it, there and back."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.errors import refused
from support.guides import blocks_of

from bridge_core import RuleError, convert, load_rules

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
BLOCKS = blocks_of(PAGE)
EXAMPLES = [
    (rules, shown)
    for (first, rules), (second, shown) in itertools.pairwise(BLOCKS)
    if (first, second) == ("toml", "text")
]


def read(shown):
    """Return the lines of an example by their first word: tensors as name -> shape, other lines as texts."""
    made = {"in": {}, "like": {}, "out": {}, "back": "", "config": "", "set": ""}
    for line in shown.splitlines():
        word, rest = line.split(maxsplit=1)
        if isinstance(made[word], str):
            made[word] = rest
        else:
            name, shape = rest.split(maxsplit=1)
            made[word][name] = tuple(ast.literal_eval(shape))
    return made


def saved(shapes, path):
    numbers = np.random.default_rng(len(shapes))
    save_file({name: numbers.standard_normal(shape, np.float32) for name, shape in shapes.items()}, path)
    return path


def run(rules, shown, folder):
    """Convert there and back; return the shapes made, and whether the first tensors came back."""
    example = read(shown)
    (folder / "r.toml").write_text(rules)
    if example["config"]:
        (folder / "config.json").write_text(example["config"])
    sizes = dict(part.split("=") for part in example["set"].split()) if example["set"] else {}
    loaded = load_rules(folder / "r.toml", sizes=sizes)
    layouts = next((rule.layouts for rule in loaded if rule.layouts), None) or ("torch", "flax")
    if not loaded[0].layouts:  # such rules are read from source to target: write them for both directions
        (folder / "r.toml").write_text(f'source = "torch"\ntarget = "flax"\n{rules}')
        loaded = load_rules(folder / "r.toml", sizes=sizes)
    source = saved(example["in"], folder / "in.safetensors")
    like = saved(example["like"], folder / "like.safetensors") if example["like"] else None
    there, back = folder / "out.safetensors", folder / "back.safetensors"
    report = convert(source, there, layout=layouts[0], to=layouts[1], like=like, rules=loaded)
    made = {name: array.shape for name, array in load_file(there).items()}
    convert(there, back, to=layouts[0], rules=loaded, like=source if "like in" in example["back"] else None)
    first, last = load_file(source), load_file(back)
    same = first.keys() == last.keys() and all(np.array_equal(first[name], last[name]) for name in first)
    assert report.exact == ("inexact" not in example["back"])
    return made, same


def test_the_page_has_an_example_of_each_part():
    assert len(EXAMPLES) >= 18
    assert sum(language == "toml" for language, _ in BLOCKS) == len(EXAMPLES)
    every = "".join(rules for rules, _ in EXAMPLES)
    for part in (
        *(
            "[tables]",
            "[tables.",
            "[sizes]",
            "[prefix]",
            "where = ",
            "counts",
            "when = ",
            "stage = ",
            '?"',
            "{module.model|",
        ),
        *(" + ", " 2 ", "scale(", "cut(", "rename = ", "rearrange = ", "sizes = "),
    ):
        assert part in every, part


@pytest.mark.parametrize(("rules", "shown"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_example_is_what_happens(rules, shown, tmp_path):
    made, same = run(rules, shown, tmp_path)
    example = read(shown)
    assert made == example["out"]
    assert same == ("inexact" not in example["back"])


def test_control_another_rule_makes_something_else(tmp_path):
    rules, shown = next((r, s) for r, s in EXAMPLES if "(a + b) in -> in (b + a)" in r)
    made, same = run(rules.replace("in (b + a)", "(b + a) in"), shown, tmp_path)
    assert made != read(shown)["out"]
    assert same
    with refused(RuleError, "r.toml:"):
        run(rules.replace("(a + b) in", "(a + c) in"), shown, tmp_path)

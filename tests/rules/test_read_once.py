"""A rule file that did not change is read once; a changed one is read again."""

from support.errors import refused

from bridge_core.errors import UsageError
from bridge_core.rules import load_rules

TEXT = """
[sizes]
heads = 4

[[rule]]
source = "{name}.weight"
target = "{name}.kernel"
rearrange = "(heads h) in -> in heads h"
"""


def written(place, name):
    path = place / "rules.toml"
    path.write_text(TEXT.replace("{name}", name))
    return path


def test_the_same_file_gives_the_same_rules(tmp_path):
    path = written(tmp_path, "q")
    assert load_rules(path)[0] is load_rules(str(path))[0]


def test_a_changed_file_is_read_again(tmp_path):
    """Also within the resolution of a file's time."""
    assert str(load_rules(written(tmp_path, "q"))[0].source) == "q.weight"
    assert str(load_rules(written(tmp_path, "k"))[0].source) == "k.weight"


def test_given_sizes_are_told_apart(tmp_path):
    path = written(tmp_path, "q")
    assert [str(load_rules(path, sizes={"heads": n})[0].sizes["heads"]) for n in (2, 3)] == ["2", "3"]
    assert str(load_rules(path)[0].sizes["heads"]) == "4"
    assert load_rules(path, sizes={"heads": 1})
    with refused(UsageError, "heads"):
        load_rules(path, sizes={"heads": True})


def test_a_rule_is_turned_once(tmp_path):
    (rule,) = load_rules(written(tmp_path, "q"))
    assert rule.reversed() is rule.reversed()
    assert rule.reversed().reversed() == rule

"""Rows of a tree: every leaf has one, siblings that are alike are folded, and no other."""

import itertools

from bridge_core.html import Leaf, tree_rows


def rows(*leaves):
    made = tree_rows([leaf if isinstance(leaf, Leaf) else Leaf(tuple(leaf.split("."))) for leaf in leaves])
    return [f"{'  ' * depth}{name}" for depth, name in zip(made.depth, made.name, strict=True)]


def test_every_leaf_has_one_row_below_its_path():
    names = [f"a{n % 7}.b{n % 5}.c.{n}" for n in range(70)] + ["a0", "a0.b0"]
    made = tree_rows([Leaf(tuple(name.split("."))) for name in names])
    assert sorted(leaf for leaf in made.leaf if leaf >= 0) == list(range(len(names)))
    path = []
    for depth, name, leaf in zip(made.depth, made.name, made.leaf, strict=True):
        assert depth <= len(path)
        path[depth:] = ["" if leaf == -2 and "." not in name else name]
        if leaf >= 0:
            parts = [part for part in ".".join(filter(None, path)).split(".") if "{" not in part]
            assert parts == [part for part in names[leaf].split(".") if "{" not in part]


def test_layers_are_folded_in_the_order_of_their_numbers():
    shown = rows(*(f"layer.{n}.{leaf}" for n in (0, 1, 10, 2) for leaf in ("w", "b")), "head.w")
    assert shown[:4] == ["layer.{0,1,2,10}", "  0", "    w", "    b"]
    assert [row for row in shown if row.strip().isdigit()] == ["  0", "  1", "  2", "  10"]
    assert shown[-2:] == ["head", "  w"]


def test_what_differs_stays_apart():
    other = Leaf(("layer", "2", "w"), "float32[9]")
    plain = [Leaf(("layer", str(n), "w"), "float32[3]") for n in (0, 1, 3, 4)]
    assert rows(*plain, other) == [
        "layer",
        "  {0,1,3,4}",
        *itertools.chain.from_iterable((f"    {n}", "      w") for n in (0, 1, 3, 4)),
        "  2",
        "    w",
    ]
    marked = [Leaf(("layer", str(n), "w"), "", n == 1) for n in range(4)]
    assert rows(*marked)[:2] == ["layer", "  {0,2..3}"] or "{0,2,3}" in rows(*marked)[1]


def test_two_siblings_are_not_folded():
    assert rows("a.0.w", "a.1.w") == ["a", "  0", "    w", "  1", "    w"]


def test_a_path_without_branches_is_one_row():
    assert rows("model.encoder.0.w", "model.encoder.0.b") == ["model.encoder.0", "  w", "  b"]


def test_names_of_any_depth_and_no_name():
    deep = Leaf(tuple("d" * 5000))
    made = tree_rows([deep, Leaf(()), Leaf(("",)), Leaf(("", "w"))])
    assert sorted(leaf for leaf in made.leaf if leaf >= 0) == [0, 1, 2, 3]
    assert max(made.depth) < 60
    assert "''" in made.name


def test_names_of_spaces_can_be_seen():
    assert rows(" .w", ".w", "a . ") == ["' '", "  w", "''", "  w", "'a '", "  ' '"]

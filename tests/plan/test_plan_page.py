"""A plan as a page: every tensor of both sides, every step as a line, problems first, names as text."""

import dataclasses

import numpy as np
import pytest
from support.pages import HOSTILE, Page, assert_only_text

from bridge_core import Rule, plan_conversion
from bridge_core.plan import Plan, Step
from bridge_core.state import LeftOut, TensorSpec, join_key


def arrays(**shapes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def stack(layers, *, kernel="weight"):
    return {
        f"layer.{n}.fc.{leaf}": np.zeros(shape, np.float32)
        for n in range(layers)
        for leaf, shape in ((kernel, (3, 4) if kernel == "weight" else (4, 3)), ("bias", (3,)))
    }


@pytest.fixture(scope="module")
def plan():
    return plan_conversion(stack(5), to="flax", layout="torch")


@pytest.fixture(scope="module")
def refused():
    source = {
        **stack(3),
        "old.weight": np.zeros((2, 5), np.float32),
        "table.weight": np.zeros((7, 5), np.float32),
    }
    like = {
        f"layer_{n}": {"fc": {"kernel": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32)}}
        for n in range(2)
    }
    return plan_conversion(source, to="flax", layout="torch", like={**like, "new": np.zeros(9)}, check=False)


def names(page, side):
    return page.data["sides"][side]["full"]


def marks(page, side):
    return [page.data["marks"][number][0] for number in page.data["sides"][side]["mark"]]


def details(page, number):
    return {term: texts for term, texts in page.data["details"][number]}


def test_every_tensor_has_a_row_and_every_step_a_line(plan):
    page = Page(plan.html("model"))
    assert names(page, 0) == [join_key(key) for key in plan.specs]
    assert sorted(names(page, 1)) == sorted(join_key(key) for step in plan.steps for key in step.targets)
    lines = {
        (tuple(names(page, 0)[n] for n in left), tuple(names(page, 1)[n] for n in right))
        for left, right, *_ in page.data["links"]
    }
    assert lines == {
        (tuple(map(join_key, step.sources)), tuple(map(join_key, step.targets))) for step in plan.steps
    }
    for side in page.data["sides"]:
        assert sorted(leaf for leaf in side["leaf"] if leaf >= 0) == list(range(len(side["full"])))
        assert side["leaf"].count(-2) == 1
    assert set(marks(page, 0)) == {"structure"}
    assert "exact" in page.text


def test_a_line_says_what_happens(plan):
    page = Page(plan.html())
    left, right, _, number = next(
        one for one in page.data["links"] if names(page, 0)[one[0][0]].endswith("weight")
    )
    assert details(page, number) == {
        "Layer kind": ["linear"],
        "What happens": ["swaps the two axes → float32[4, 3]"],
    }
    infos = [page.data["sides"][side] for side in (0, 1)]
    assert [side["infos"][side["info"][one[0]]] for side, one in zip(infos, (left, right), strict=True)] == [
        "float32[3, 4]",
        "float32[4, 3]",
    ]


def test_a_refused_plan_has_its_problems_first(refused):
    assert not refused.ok
    page = Page(refused.html())
    assert page.text.lstrip().startswith("refused")
    text = page.text
    assert text.index("Why it is refused") < text.index("Missing") < text.index("Unexpected")
    assert refused.missing
    assert refused.unexpected
    for key in refused.missing:
        assert marks(page, 1)[names(page, 1).index(join_key(key))] == "missing"
    for key in refused.unexpected:
        assert marks(page, 0)[names(page, 0).index(join_key(key))] == "unexpected"
    for button in page.named("button"):
        if "data-leaf" in button:
            assert int(button["data-leaf"]) < len(names(page, int(button["data-side"])))


def test_ambiguous_and_guessed():
    source = {"table.weight": np.zeros((7, 5), np.float32)}
    open_plan = plan_conversion(source, to="flax", layout="torch", check=False)
    page = Page(open_plan.html())
    assert marks(page, 0) == ["ambiguous"]
    (number,) = page.data["sides"][0]["detail"]
    assert " or " in details(page, number)["It may be"][0]
    page = Page(plan_conversion(source, to="flax", layout="torch", accept_guesses=True).html())
    assert marks(page, 0) == ["guess"]
    assert "Guessed" in page.text


def test_what_is_left_out_and_what_is_lossy():
    source = arrays(fc=(3,), old=(2,))
    plan = plan_conversion(source, to="flax", layout="torch", rules=[Rule.drop("old", "not used")])
    page = Page(plan.cast(np.dtype("float16")).html())
    assert dict(zip(names(page, 0), marks(page, 0), strict=True))["old"] == "dropped"
    assert "Left out" in page.text
    assert "Lossy" in page.text
    assert any(
        "casts float32 to float16" in text
        for one in page.data["details"]
        for _, texts in one
        for text in texts
    )


def test_ties_are_lines_as_well():
    shared = np.zeros((5, 3), np.float32)
    plan = plan_conversion({"emb.weight": shared, "out.weight": shared}, to="torch", layout="torch")
    page = Page(plan.html())
    assert sorted(names(page, 1)) == ["emb.weight", "out.weight"]
    assert len(page.data["links"]) == 2


@pytest.mark.parametrize("page", [True, False])
def test_hostile_names_are_text(page):
    source = {(name, "w"): np.zeros(2, np.float32) for name in HOSTILE}
    plan = plan_conversion(source, to="flax", layout="torch", check=False)
    text = plan.html(HOSTILE[0]) if page else plan._repr_html_()
    text.encode()
    shown = Page(text)
    assert_only_text(shown)
    assert len(shown.scripts) == page
    if page:
        assert len(names(shown, 0)) == len(HOSTILE)
        assert all(name.isprintable() for side in (0, 1) for name in names(shown, side))


def test_a_plan_made_by_hand_that_does_not_fit_is_shown():
    specs = {("a",): TensorSpec((3,), np.dtype("float32"))}
    plan = Plan("torch", "flax", specs, (Step((("a",), ("b",)), (("c",),)),))
    page = Page(plan.html())
    assert names(page, 0) == ["a", "b"]
    assert names(page, 1) == ["c"]
    assert "a, b" in Page(plan._repr_html_()).text


def test_in_a_notebook(plan, refused):
    page = Page(plan._repr_html_())
    assert not page.scripts
    assert "layer.{0..4}.fc.weight" in page.text
    assert "x5" in page.text
    page = Page(refused._repr_html_())
    assert page.text.index("Why it is refused") < page.text.index("Steps")
    large = plan_conversion(stack(500), to="torch", layout="torch")
    assert len(large._repr_html_()) < 20_000


def test_what_nothing_fills_has_the_shape_of_the_template(refused):
    source, like = arrays(**{"a.weight": (3, 4)}), {"a": arrays(kernel=(4, 3)), "new": arrays(kernel=(7, 5))}
    allowed = plan_conversion(source, to="flax", layout="torch", like=like, allow_missing=["new.kernel"])
    for plan, expected in ((refused, "float64[9]"), (allowed, "float32[7, 5]")):
        side = Page(plan.html()).data["sides"][1]
        infos = {name: side["infos"][info] for name, info in zip(side["full"], side["info"], strict=True)}
        assert next(info for name, info in infos.items() if name.startswith("new")) == expected


def test_what_the_metadata_stores_is_not_called_left_out():
    source = arrays(**dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (5,)))
    source = {f"bn.{name}": value for name, value in source.items()}
    source["bn.num_batches_tracked"] = np.zeros((), np.int64)
    page = Page(plan_conversion(source, to="flax", layout="torch").html())
    assert dict(zip(names(page, 0), marks(page, 0), strict=True))["bn.num_batches_tracked"] == "residual"
    assert page.text.lstrip().startswith("exact")


def test_rules_to_paste_are_there_once():
    like = {"b": arrays(kernel=(4, 3), bias=(3,))}
    plan = plan_conversion(
        arrays(**{"a.weight": (3, 4), "a.bias": (3,)}), to="flax", layout="torch", like=like, check=False
    )
    assert Page(plan.html()).text.count('rename = "b.*"') == 1


def test_branches_that_are_not_read_are_seen_at_once(plan):
    left_out = LeftOut("opt_state", "optimizer state", 64, 2)
    page = Page(dataclasses.replace(plan, branches=(left_out,)).html())
    assert "opt_state: optimizer state, 2 tensors" in page.text
    assert "What is read of the source can be restored" in page.text
    assert "The source can be restored" not in page.text

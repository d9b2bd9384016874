"""Matching settles what headers determine, never a wrong key, and its rules work both ways."""

import numpy as np
import pytest
from support.errors import refused
from support.match_pairs import encoder, random_pair, score, shapes_only, zoo_pairs

from bridge_core import FlatState, UsageError, convert, load_rules, open_state, save_state
from bridge_core.proof.matching import match, settle
from bridge_core.proof.matching.match_states import match_states

SIDES = ("", "source", "target")


def pair_of(ours, theirs, **layouts):
    source = {tuple(name.split(".")): shape for name, shape in ours.items()}
    target = {tuple(name.split(".")): shape for name, shape in theirs.items()}
    return (
        shapes_only(source, layouts.get("source", "torch")),
        shapes_only(target, layouts.get("target", "flax")),
    )


def rules_of(matching):
    return {(pair.sources, pair.targets): pair for pair in matching.pairs}


@pytest.mark.parametrize("side", SIDES)
def test_an_encoder_is_settled_up_to_the_ceiling(side):
    found = score(encoder(), side)
    assert not found.wrong
    assert not found.lost
    assert not found.problems
    assert found.matching.complete == (side == "")
    assert found.ceiling < found.leaves


def test_complete_rules_convert(tmp_path):
    pair = encoder(layers=2)
    random = np.random.default_rng(0)
    source = {
        key: random.normal(size=spec.shape).astype("float32") for key, spec in pair.source.specs().items()
    }
    save_state(pair.source.replace(tensors=source), tmp_path / "a.safetensors")
    save_state(pair.target, tmp_path / "b.msgpack")
    matching = match(tmp_path / "a.safetensors", like=tmp_path / "b.msgpack")
    assert matching.complete
    (tmp_path / "rules.toml").write_text(matching.rules_text)
    rules = load_rules(tmp_path / "rules.toml")
    convert(tmp_path / "a.safetensors", tmp_path / "c.msgpack", to="flax", like=pair.target, rules=rules)
    with open_state(tmp_path / "c.msgpack") as made:
        for key, partners in pair.truth.items():
            value = source[next(iter(partners))]
            np.testing.assert_array_equal(made[key], value.T if key[-1] == "kernel" else value)


def test_the_names_of_a_choice_are_its_candidates():
    found = score(encoder(), "target")
    choice = next(one for one in found.matching.choices if "query" in str(one.sources))
    assert len(choice.sources) == len(choice.targets) == 3
    assert len(choice.options) == 9
    assert found.matching.rules_text.count("# choice ") == len(found.matching.choices)


def test_names_that_are_alike_never_settle():
    source, target = pair_of(
        {"a.first_thing": (4,), "a.second_thing": (4,)}, {"a.first_thing_x": (4,), "a.second_thing_x": (4,)}
    )
    matching = match_states(source, target)
    assert not matching.pairs
    assert matching.choices[0].options_of("a.first_thing")[0].target == "a.first_thing_x"


def test_numbers_that_begin_elsewhere_and_with_gaps():
    source, target = pair_of(
        {f"net.{n}.weight": (3, 3, 1, 1)[:2] for n in (0, 2, 4)} | {f"net.{n}.bias": (3,) for n in (0, 2, 4)},
        {f"Dense_{n}.kernel": (3, 3) for n in range(3)} | {f"Dense_{n}.bias": (3,) for n in range(3)},
    )
    matching = match_states(source, target)
    assert matching.complete
    assert {pair.where for pair in matching.pairs} == {("i = 2*j",)}


def test_a_stack_has_the_numbers_as_an_axis():
    source, target = pair_of({f"h.{n}.fc.weight": (6, 4) for n in range(3)}, {"h.fc.kernel": (4, 3, 6)})
    (pair,) = match_states(source, target).pairs
    assert pair.equation == "out in -> in i out"
    assert len(pair.keys[0][0]) == 3


def test_blocks_in_blocks_are_counted_through():
    source, target = pair_of(
        {f"layers.{n}.fc.weight": (6, 4) for n in range(6)},
        {f"block_{b}.layer_{j}.fc.kernel": (4, 6) for b in range(2) for j in range(3)},
    )
    matching = match_states(source, target)
    assert matching.complete
    assert [pair.where for pair in matching.pairs] == [("i = j*3 + l",)]


@pytest.mark.parametrize(
    ("ours", "theirs", "settled"),
    [
        ({"x.weight": (4, 4)}, {"x.kernel": (4, 4)}, True),  # the names of both leaves
        ({"x.weight": (4, 4)}, {"x.thing": (4, 4)}, False),
        ({"x.weight": (4, 4), "x.bias": (4,)}, {"x.u": (4, 4), "x.v": (4,)}, True),  # the bias
        ({"x.weight": (5, 4)}, {"x.thing": (4, 5)}, True),
        ({"x.weight": (4, 4, 3, 3)}, {"x.kernel": (3, 3, 4, 4)}, False),  # a transposed convolution, perhaps
        ({"conv.weight": (4, 4, 3, 3)}, {"Conv_0.kernel": (3, 3, 4, 4)}, True),
    ],
)
def test_the_order_of_axes_is_a_choice_where_nothing_decides_it(ours, theirs, settled):
    matching = match_states(*pair_of(ours, theirs))
    assert bool(matching.pairs) >= settled
    assert any(choice.is_orientation for choice in matching.choices) != settled


def test_a_transposed_convolution_is_flipped():
    source, target = pair_of(
        {"up.weight": (5, 4, 2, 2), "up.bias": (4,)}, {"up.kernel": (2, 2, 5, 4), "up.bias": (4,)}
    )
    matching = match_states(source, target)
    assert matching.complete, matching.problems
    assert any("k0_1 + k0_0" in pair.equation for pair in matching.pairs)


def test_types_of_live_modules_decide(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False))
    _, target = pair_of({}, {"thing.u": (4, 4)})
    assert not match_states(shapes_only({("0", "weight"): (4, 4)}, "torch"), target).complete
    matching = match(source_model=model, like=target)
    assert [pair.equation for pair in matching.pairs] == ["out in -> in out"]


def test_an_embedding_and_a_head_that_change_places_are_a_choice():
    source, target = pair_of(
        {"model.embed.weight": (9, 4), "model.norm.weight": (4,), "lm_head.weight": (9, 4)},
        {"token_embedder.embedding": (9, 4), "decoder.norm.scale": (4,), "decoder.logits.kernel": (4, 9)},
    )
    matching = match_states(source, target)
    assert not any("head" in str(pair.sources) for pair in matching.pairs)
    assert len(matching.choices) == 1


def test_leaves_without_a_partner_are_open_unless_they_are_no_weights():
    source, target = pair_of({"a.weight": (5, 4), "b.weight": (7, 3)}, {"a.kernel": (4, 5)})
    matching = match_states(source, target)
    assert [leaf.pattern for leaf in matching.open_leaves] == ["b.weight"]
    assert "# unmatched source: b.weight [7, 3]" in matching.rules_text
    assert not matching.complete


def test_two_tied_copies_and_one_are_open():
    source, target = pair_of({"x.weight": (9, 4), "y.weight": (9, 4)}, {"z.embedding": (9, 4)})
    matching = match_states(source, target)
    assert not matching.pairs
    assert not matching.complete


def test_sides_of_one_framework():
    names = {"a.weight": (5, 4), "a.bias": (5,)}
    source, target = pair_of(names, {f"model.{name}": s for name, s in names.items()}, target="torch")
    matching = match_states(source, target)
    assert matching.complete, matching.problems


def test_an_unknown_layout_is_refused():
    _, target = pair_of({}, {"a.kernel": (4, 5)})
    with refused(UsageError, "layout", hint="--layout"):
        match_states(FlatState({("a", "u"): np.ones((5, 4), "float32")}), target)


def test_a_side_that_is_not_given_is_refused():
    with refused(UsageError, "target", hint="--like"):
        match({"a.weight": np.ones((2, 2))})


@pytest.mark.slow
def test_time_grows_with_patterns_and_not_with_layers():
    found = score(encoder(layers=60), check=False)
    assert len(found.matching.pairs) == len(score(encoder(layers=2), check=False).matching.pairs)


def test_a_weight_norm_is_nested_in_other_ways():
    found = [score(random_pair(10), side) for side in SIDES]
    assert not [one.wrong for one in found if one.wrong]


def test_choices_that_are_settled_become_rules():
    source, target = pair_of(
        {"a.q.weight": (4, 5), "a.k.weight": (4, 5)}, {"a.one.kernel": (5, 4), "a.two.kernel": (5, 4)}
    )
    matching = match_states(source, target)
    (choice,) = matching.choices
    chosen = [choice.options_of("a.q.weight")[0]]
    half = settle(matching, {0: chosen}, source=source, target=target, reason="by content")
    assert len(half.pairs) == 1
    assert len(half.choices) == 1
    rest = half.choices[0].options
    whole = settle(half, {0: rest}, source=source, target=target, reason="by content")
    assert whole.complete, whole.problems
    assert "# by content (confidence 1.00)" in whole.rules_text
    with refused(UsageError, "not an option", hint="choice.options"):
        settle(half, {0: chosen}, source=source, target=target, reason="")
    with refused(UsageError, "twice", hint="one option"):
        settle(matching, {0: choice.options[::2]}, source=source, target=target, reason="")


def check_random(seeds):
    pairs = [pair for pair in map(random_pair, seeds) if pair is not None]
    found = [score(pair, side, seed=seed) for seed, pair in enumerate(pairs) for side in SIDES]
    assert not [(one.name, one.wrong) for one in found if one.wrong]
    assert not [(one.name, one.problems) for one in found if one.problems]


@pytest.mark.slow
def test_some_random_models():
    check_random(range(10))


@pytest.mark.zoo
def test_random_models():
    check_random(range(10, 110))


@pytest.mark.zoo
@pytest.mark.parametrize("side", SIDES)
def test_fast_cases_of_the_zoo(side):
    found = [score(pair, side, seed=seed) for pair in zoo_pairs() for seed in range(1 if not side else 3)]
    assert not [one.wrong for one in found if one.wrong]
    assert not [(one.name, one.lost) for one in found if one.lost]
    assert not [one.problems for one in found if one.problems]
    if not side:
        assert not [one.name for one in found if one.choices]


@pytest.mark.parametrize(
    ("ours", "theirs", "truth"),
    [
        pytest.param(
            {
                "m.0.bias": (16,),
                "m.0.weight": (16, 1, 16, 16),
                "m.1.bias": (16,),
                "m.1.weight": (16, 1, 2, 2),
            },
            {"x.0.bias": (16,), "x.0.kernel": (16, 16, 1, 16)},
            {"x.0.bias": "m.0.bias", "x.0.kernel": "m.0.weight"},
            id="a layer fewer",
        ),
        pytest.param(
            {
                "c.0.bias": (3,),
                "c.0.extra0": (3,),
                "c.0.extra1": (3,),
                "c.0.weight": (3, 1, 2, 2),
                "c.1.bias": (3,),
                "c.1.weight": (3, 1, 2, 2),
            },
            {"h1.bias": (3,), "h1.kernel": (2, 2, 1, 3), "h2.bias": (3,), "h2.kernel": (2, 2, 1, 3)},
            {
                "h1.bias": "c.0.bias",
                "h1.kernel": "c.0.weight",
                "h2.bias": "c.1.bias",
                "h2.kernel": "c.1.weight",
            },
            id="tensors more",
        ),
    ],
)
def test_where_one_side_has_more_of_a_shape_its_leaves_are_open(ours, theirs, truth):
    matching = match_states(*pair_of(ours, theirs))
    wrong = [p for p in matching.settled if truth[".".join(p.targets[0])] != ".".join(p.sources[0])]
    assert not wrong
    assert not matching.complete

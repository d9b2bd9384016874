"""The order of a proof, on toy models: weights, control, outputs, the first module that differs."""

import numpy as np
import pytest
from support.errors import refused
from support.schemas import check_document
from support.toy_models import toy_registry
from support.toy_stacks import X, model, proof

from bridge_core import MismatchError, UsageError
from bridge_core.errors import UnsupportedFeature
from bridge_core.plugins import ModuleCall
from bridge_core.proof import prove
from bridge_core.proof.running.alignment import CallPair
from bridge_core.proof.running.first_difference import first_place
from bridge_core.proof.running.inputs import as_inputs, blind_spots, misses_mask
from bridge_core.proof.running.module_pairs import ModuleError


def dropped(x, run):
    return x * (run.rng.random(x.shape) > 0.2)


@pytest.fixture
def no_causes(monkeypatch):
    """Where the module counts and not why: looking for causes takes most of the time."""
    monkeypatch.setattr("bridge_core.proof.running.search.find_causes", lambda site: ())


def test_a_right_port_is_equal():
    done = proof(model("torch"), model("flax"))
    assert done.equal
    assert done.error <= done.control < 1e-5
    assert done.error_in_float64 < 1e-13
    assert done.first is None
    assert not done.causes
    assert not done.problems
    check_document("prove", done.to_json())


def test_the_first_module_that_differs_is_named():
    done = proof(model("torch"), model("flax", changed=(1, {"eps": 1e-2})))
    assert not done.equal
    assert (done.first.source, done.first.target) == ("block1.norm", "block1.norm")
    assert done.first.input_error < 1e-12 < 1e-4 < done.first.output_error
    assert done.first.equal_before == 4  # block0 with its three layers, and nothing of block1
    assert [one.name for one in done.settings] == ["eps"]
    check_document("prove", done.to_json())
    text = "\n".join(done.lines())
    assert "block1.norm" in text
    assert "eps" in text


@pytest.mark.usefixtures("no_causes")
def test_a_mistake_between_modules_is_placed_before_the_next_one():
    done = proof(model("torch"), model("flax", changed=(2, {"act": lambda x, run: np.tanh(x)})))
    assert (done.first.source, done.first.before) == ("block2", ("block2.down", "block2.down"))


@pytest.mark.usefixtures("no_causes")
def test_a_mistake_after_all_modules_is_in_the_container():
    done = proof(model("torch"), model("flax", changed=(0, {"join": lambda x, y: 0.5 * x + y})))
    assert (done.first.source, done.first.before) == ("block0", None)


@pytest.mark.usefixtures("no_causes")
def test_a_small_mistake_is_never_equal():
    """Whatever changes outputs by more than rounding does is different."""
    for eps in (1.1e-5, 1e-4):
        done = proof(model("torch"), model("flax", changed=(0, {"eps": eps})))
        assert done.equal == (done.error <= done.control)
        assert done.equal is False or (
            done.error_in_float64 > 1e-10 and any("float64" in n for n in done.notes)
        )
    assert not done.equal


def test_dropout_left_on_is_a_cause_of_its_own():
    done = proof(model("torch", changed=(1, {"act": dropped})), model("flax"))
    assert not done.equal
    assert [cause.code for cause in done.causes] == ["dropout"]
    assert "block1.act" in done.causes[0].text
    assert "source" in done.causes[0].text


def test_nan_is_never_equal():
    nan = lambda x, run: np.where(x > 0, x, np.nan)  # noqa: E731
    done = proof(model("torch", changed=(2, {"act": nan})), model("flax", changed=(2, {"act": nan})))
    assert not done.equal
    assert len(done.problems) == 2
    assert "NaN" in done.problems[0]
    check_document("prove", done.to_json())


@pytest.mark.usefixtures("no_causes")
def test_without_float64_the_report_says_so():
    done = proof(model("torch", float64=False), model("flax"))
    assert done.equal
    assert done.error_in_float64 is None
    assert any("float64" in note for note in done.notes)
    wrong = proof(model("torch", float64=False), model("flax", changed=(1, {"eps": 1e-2})))
    assert wrong.first.source == "block1.norm"


def test_outputs_of_other_axes_and_of_one_side():
    def moved(out):
        return {"logits": np.moveaxis(out, -1, 1), "cache": out[:1]}

    done = proof(model("torch", outputs=moved), model("flax", outputs=lambda out: {"logits": out}))
    assert done.equal
    assert done.outputs.pairs[0].how == "channels moved from last to first"
    assert done.outputs.only_source == ("cache",)


def test_nothing_comparable_is_refused():
    with refused(MismatchError, "(3, 5, 4)".strip("()"), "float32[2]", hint="inputs="):
        proof(model("torch"), model("flax", outputs=lambda out: {"": out.reshape(-1)[:2]}))


def test_constants_keep_their_values_and_all_else_is_random():
    frequencies = np.linspace(1, 2, 4, dtype=np.float32)
    numbers = np.arange(3)
    source = model("torch", constants={"inv_freq": frequencies, "ids": numbers})
    target = model("flax", constants={"inv_freq": frequencies, "ids": numbers})
    done = proof(source, target)
    assert done.equal
    assert any("inv_freq" in note for note in done.notes)


def test_inputs():
    """They are what a model offers, or the error shows how to write them."""
    with refused(UsageError, "inputs", hint=("def inputs", "--inputs mynet:inputs")):
        proof(model("torch"), model("flax"), inputs=None)
    assert proof(model("torch", offered=X), model("flax"), inputs=None).equal
    assert proof(model("torch"), model("flax"), inputs=lambda: (X,)).equal
    assert proof(model("torch"), model("flax"), inputs={"source": X, "target": X.astype("f8")}).equal
    with refused(UsageError, "failed", "ZeroDivisionError"):
        proof(model("torch"), model("flax"), inputs=lambda: 1 / 0)
    with refused(UsageError, "floats", hint='"source"'):
        proof(model("torch"), model("flax"), inputs=np.arange(3))
    blind = proof(model("torch"), model("flax"), inputs=np.ones((1, 2, 8), "f4")).blind
    assert any("constant" in text for text in blind)
    assert any("batch of one" in text for text in blind)


def test_models():
    with refused(UsageError, "source_model=", "a dict", hint="torch.nn.Module"):
        proof({}, model("flax"))
    registry = toy_registry()
    silent = type("Silent", (), {"name": "flax", "collections": {}, "default_format": "npz"})()
    silent.accepts, silent.owns = lambda value: True, lambda names: False
    silent.state = silent.build = lambda *_: None
    registry = registry.with_tables(frameworks={"torch": registry.frameworks["torch"], "flax": silent})
    with refused(UnsupportedFeature, "not offered by flax", "model="):
        prove(source_model=model("torch"), model=object(), inputs=X, registry=registry)


def test_what_a_model_raises_names_the_model():
    def ends(x, run):
        raise SystemExit(3)

    with refused(UsageError, "target", "SystemExit", "ToyModel"):
        proof(model("torch"), model("flax", changed=(0, {"act": ends})))


def test_a_refused_plan_is_refused():
    with refused(MismatchError, "block2.down.kernel"):
        proof(model("torch", blocks=2), model("flax", blocks=3))


def test_what_no_source_fills_keeps_the_targets_values():
    done = proof(model("torch", blocks=2), model("flax", blocks=3), allow_missing=["block2.**"])
    assert any("block2" in note and "own values" in note for note in done.notes)
    assert done.equal  # a block of zeros adds nothing


def test_settings_without_a_run():
    done = proof(model("torch"), model("flax", changed=(1, {"eps": 1e-2})), run=False)
    assert not done.equal
    assert not done.ran
    assert done.outputs is None
    (only,) = done.settings
    assert (only.source, only.name, only.source_value, only.target_value) == (
        "block1.norm",
        "eps",
        "1e-05",
        "0.01",
    )
    check_document("prove", done.to_json())
    same = proof(model("torch"), model("flax"), run=False)
    assert same.equal
    act = proof(model("torch"), model("flax", changed=(1, {"act": dropped})), run=False)
    assert [(one.source, one.name) for one in act.settings] == [("block1.act", "activation")]


def test_a_checkpoint_gives_the_values():
    rng = np.random.default_rng(3)
    registry = toy_registry()
    weights = registry.frameworks["torch"].model_weights(model("torch"), None)
    values = {key: rng.standard_normal(weights.spec(key).shape).astype("f4") for key in weights}
    done = proof(model("torch"), model("flax"), checkpoint={".".join(key): v for key, v in values.items()})
    assert done.equal
    other = proof(model("torch"), model("flax"))
    assert done.control != other.control
    del values["head", "weight"]
    with refused(MismatchError, "head.weight"):
        proof(model("torch"), model("flax"), checkpoint={".".join(key): v for key, v in values.items()})


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_gives_the_same_proof(seed):
    one, two = (proof(model("torch"), model("flax"), seed=seed).to_json() for _ in range(2))
    assert one == two


def shortened(x, run):
    return np.maximum(x, 0)[:, ::2]


@pytest.mark.usefixtures("no_causes")
def test_outputs_of_other_sizes_name_the_module():
    """As a stride gives them: to the error of no comparison an infinite one."""

    def pooled(out):
        return {"": out.mean(1)}

    def sides(**options):
        wrong = model("flax", join=None, changed=(1, {"act": shortened}), **options)
        return model("torch", join=None, **options), wrong

    for options in ({}, {"outputs": pooled}):
        done = proof(*sides(**options))
        assert not done.equal
        assert (done.first.source, done.first.before) == ("block1", ("block1.down", "block1.down"))
        assert done.first.output_error == float("inf")
        assert "other sizes" in "\n".join(done.lines())
        check_document("prove", done.to_json())


def test_sizes_that_are_made_up_for_are_not_the_first_difference():
    """A token that one side adds inside a module, and the other outside."""

    def call(began, x, y):
        return ModuleCall(("m",), "toy", {"0": x}, {"": y}, {}, began, began + 1)

    long, short = np.arange(10.0).reshape(1, 5, 2), np.arange(8.0).reshape(1, 4, 2)
    model_pair = ModuleError(CallPair((call(0, short, long),), (call(0, short, long),)), 0.0, 1.0)
    for one in model_pair.pair.source + model_pair.pair.target:
        object.__setattr__(one, "ended", 100)
    embed = ModuleError(CallPair((call(1, short, long),), (call(1, short, short),)), 0.0, float("inf"))
    after = ModuleError(CallPair((call(3, long, long),), (call(3, long, long),)), 0.0, 0.5)
    beside = ModuleError(CallPair((call(3, short, long),), (call(3, short, long),)), 0.0, 0.5)
    assert first_place([model_pair, embed, after], 1e-6).outer is after
    assert first_place([model_pair, embed, beside], 1e-6).outer is embed


@pytest.mark.usefixtures("no_causes")
def test_the_first_lines_say_what_to_do_next():
    assert "Nothing to mend" in proof(model("torch"), model("flax")).lines()[1]
    wrong = proof(model("torch"), model("flax", changed=(1, {"eps": 1e-2})))
    assert "block1.norm" in wrong.lines()[1]
    assert wrong.to_json()["next_step"] == wrong.next_step
    unknown = proof(model("torch"), model("flax", changed=(2, {"act": lambda x, run: np.tanh(x) ** 3 + 2})))
    assert "block2" in unknown.next_step
    nan = model("flax", changed=(2, {"act": lambda x, run: x * np.nan}))
    assert "NaN" in proof(model("torch"), nan).next_step
    still = proof(model("torch"), model("flax"), run=False)
    assert "--no-run" in still.lines()[1]
    assert "equal" in proof(model("torch"), model("flax", changed=(1, {"eps": 1.0})), run=False).lines()[1]


def test_a_mask_is_missed_only_where_a_model_takes_one():
    class Masked:
        def forward(self, ids, attention_mask=None): ...

    class Plain:
        def __call__(self, ids): ...

    ids = np.arange(24).reshape(2, 12)
    plain = as_inputs(ids)
    assert misses_mask(Masked(), plain)
    assert misses_mask((Masked(), {}), plain)
    assert not misses_mask(Masked(), as_inputs((ids, ids > 3)))
    assert not misses_mask(Masked(), as_inputs({"ids": ids, "attention_mask": ids > 3}))
    assert not misses_mask(Plain(), plain)
    assert not misses_mask(object(), plain)
    assert [text for text in blind_spots(plain, Masked()) if "mask" in text]
    assert not [text for text in blind_spots(plain, Plain()) if "mask" in text]

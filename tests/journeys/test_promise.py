"""Each sentence of the promise in docs/right-or-refused.md, and the page itself, run as it stands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.errors import refused
from support.guides import blocks_of, run_blocks
from support.strange_plugins import format_source, install, installed

import bridge_core.io.atomic_write as output_module
from bridge_core import (
    AmbiguousLayerError,
    BridgeError,
    FlatState,
    MismatchError,
    ShardError,
    UnclaimedTensorError,
    UnsafeFile,
    VerificationError,
    as_key,
    convert,
    join_key,
    open_state,
    plan_conversion,
    save_state,
    to_neutral,
)
from bridge_core.state import DTYPES, PACKED

PAGE = Path(__file__).parents[2] / "docs" / "right-or-refused.md"


def numbers(*shape, dtype="float32"):
    return np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


MLP = {"fc.weight": numbers(3, 4), "fc.bias": numbers(3)}
SQUARE = {"conv.weight": numbers(4, 4, 3, 3), "conv.bias": numbers(4)}
OPEN = {"head.weight": numbers(3, 4), "norm.weight": numbers(4)}
OWN = {"cls_token": numbers(1, 1, 4), "pos_embed": numbers(1, 5, 4), "mixer.A_log": numbers(4)}
NAMED = {"mixer.gate_weight": numbers(4, 4), "q.qweight": numbers(2, 4, dtype="int32")}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def values(path, layout="flax"):
    with open_state(path, layout=layout) as state:
        return {join_key(key): np.asarray(state[key]) for key in state}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


# -- the page ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_every_block_of_the_page_runs_in_order():
    blocks = blocks_of(PAGE)
    run_blocks(blocks, str(PAGE))
    assert {language for language, _ in blocks} == {"python", "console"}


def test_each_sentence_of_the_promise_has_a_test():
    section = PAGE.read_text().split("## ")[1]
    sentences = re.findall(r"^\d+\. (.*)\.$", section, re.MULTILINE)
    names = ["test_" + re.sub(r"[^a-z]+", "_", sentence.lower()).strip("_") for sentence in sentences]
    assert len(names) >= 20
    assert [name for name in names if not callable(globals().get(name))] == []


# -- the promise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["linear", "conv", "transposed", "embedding", "norm"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("told", ["nothing", "template"])
def test_what_is_converted_is_right_or_the_conversion_is_refused(layer, bias, told):
    weight, name, expected = {
        "linear": (w := numbers(4, 4), "kernel", w.T),
        "conv": (w := numbers(4, 4, 3, 3), "kernel", w.transpose(2, 3, 1, 0)),
        "transposed": (w := numbers(4, 4, 3, 3), "kernel", w.transpose(2, 3, 0, 1)[::-1, ::-1]),
        "embedding": (w := numbers(5, 4), "embedding", w),
        "norm": (w := numbers(4), "scale", w),
    }[layer]
    more = {"bias": numbers(4)} if bias and layer != "embedding" else {}
    source = {f"mid.{leaf}": value for leaf, value in ({"weight": weight} | more).items()}
    truth = {f"mid.{leaf}": value for leaf, value in ({name: expected} | more).items()}
    like = FlatState(truth, layout="flax") if told == "template" else None
    if layer in ("conv", "transposed") or (told == "nothing" and not more):
        with refused(AmbiguousLayerError) as caught:
            convert(source, "out.npz", to="flax", like=like)
        assert caught.value.candidates.keys() == source.keys()
    else:
        convert(source, "out.npz", to="flax", like=like)
        assert_same(values("out.npz"), truth)


@pytest.mark.parametrize("source", [OPEN, NAMED, OPEN | NAMED], ids=["undecided", "unclaimed", "both"])
def test_a_refusal_lists_every_tensor_that_it_is_about_and_how_to_go_on(source):
    with pytest.raises((AmbiguousLayerError, UnclaimedTensorError)) as caught:
        plan_conversion(source, to="flax", layout="torch")
    for name in source:
        assert f"\n  {name}" in str(caught.value)  # each in a line of its own
    for option in ("--like", "--model", "--rules"):
        assert option in caught.value.hint
    assert ("--accept-guesses" in caught.value.hint) == (source is not NAMED)
    assert ("--allow-unclaimed" in caught.value.hint) == (source is not OPEN)


@pytest.mark.parametrize("source", [OPEN, NAMED], ids=["undecided", "unclaimed"])
def test_a_refused_conversion_leaves_nothing_behind(source, tmp_path):
    (tmp_path / "kept.npz").write_bytes(b"as before")
    for name in ("new.npz", "kept.npz"):
        with pytest.raises(BridgeError):
            convert(source, name, to="flax", layout="torch", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]
    assert (tmp_path / "kept.npz").read_bytes() == b"as before"


def test_nothing_is_guessed_unasked_and_every_guess_is_listed():
    with pytest.raises(AmbiguousLayerError):
        convert(MLP | OPEN, "out.npz", to="flax")
    report = convert(MLP | OPEN, "out.npz", to="flax", accept_guesses=True)
    assert report.evidence == {"structure": 2, "guess": 2}
    assert sorted(map(join_key, report.guessed)) == ["head.kernel", "norm.scale"]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("route", ["one step", "neutral file"])
def test_a_tensor_with_a_layer_s_name_that_no_evidence_explains_does_not_cross_frameworks_unasked(
    name, route
):
    source = MLP | {name: NAMED[name]}
    if route == "neutral file":
        convert(source, "neutral.npz", to="neutral")
        source = "neutral.npz"
    for guesses in (False, True):
        with refused(UnclaimedTensorError) as caught:
            convert(source, "out.npz", to="flax", accept_guesses=guesses)
        assert list(caught.value.reasons) == [name]
    report = convert(source, "out.npz", to="flax", allow_unclaimed=name)
    assert [join_key(key) for key in report.unclaimed] == [name]
    np.testing.assert_array_equal(values("out.npz")[name], NAMED[name])


def test_a_tensor_with_a_name_of_its_own_is_copied_unchanged_and_listed():
    report = convert(MLP | OWN, "out.npz", to="flax")
    assert_same(values("out.npz"), {"fc.kernel": MLP["fc.weight"].T, "fc.bias": MLP["fc.bias"]} | OWN)
    assert {join_key(key) for key in report.unclaimed} == OWN.keys()


@pytest.mark.parametrize("sizes", [(8, 24), (8, 9)])
def test_what_one_layer_of_a_checkpoint_denies_the_others_of_its_kind_do_not_prove(sizes):
    square = {"h.c_proj.weight": numbers(8, 8), "h.c_proj.bias": numbers(8)}
    assert plan_conversion(square, to="flax").evidence == {"structure": 2}
    turned = {"h.c_attn.weight": numbers(*sizes), "h.c_attn.bias": numbers(sizes[1])}
    plan = plan_conversion(square | turned, to="flax", check=False)
    assert {as_key(name) for name in square} <= plan.ambiguous.keys()


def test_missing_unexpected_and_misshapen_tensors_are_errors_all_listed_at_once():
    like = {"fc": {"kernel": numbers(4, 5), "bias": numbers(3)}, "head": {"bias": numbers(2)}}
    with refused(
        MismatchError, "head.bias", "old.bias", "fc.weight", "float32[4, 3]", "float32[4, 5]"
    ) as caught:
        plan_conversion(MLP | {"old.bias": numbers(7)}, to="flax", like=like)
    assert (caught.value.missing, caught.value.unexpected) == (("head.bias",), ("old.bias",))
    assert [text.startswith("fc.weight") for text in caught.value.mismatched] == [True]


@pytest.mark.parametrize("form", ["msgpack", "npz"])
def test_every_dtype_goes_through_unchanged_bit_for_bit(form):
    source, expected = {}, {}
    for name, dtype in DTYPES.items():
        bits = np.random.default_rng(5).integers(0, 256, 96 * dtype.itemsize).astype(np.uint8)
        any_bits = name != "bool" and name not in PACKED and not name.startswith("float6_")
        weight = (bits.view(dtype) if any_bits else (bits % 2).astype(dtype)).reshape(8, 12)
        source |= {f"{name}.weight": weight, f"{name}.bias": weight[:, 0].copy()}
        expected |= {f"{name}.kernel": weight.T, f"{name}.bias": weight[:, 0]}
    convert(source, f"out.{form}", to="flax", layout="torch")
    found = values(f"out.{form}")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].dtype, found[name].tobytes()) == (value.dtype, value.tobytes()), name


def test_what_was_written_is_read_back_and_compared_before_the_destination_appears(tmp_path, monkeypatch):
    def losing(file):
        with file.open("r+b") as handle:
            handle.seek(-40, 2)
            handle.write(b"lost")

    monkeypatch.setattr(output_module, "sync_file", losing)
    with refused(VerificationError, "out.safetensors", "fc."):
        convert({"fc.weight": numbers(30, 4), "fc.bias": numbers(30)}, "out.safetensors", to="flax")
    assert not list(tmp_path.iterdir())


def test_from_torch_to_flax_and_back_to_torch_is_the_identity():
    source = MLP | OWN | {"conv.weight": numbers(8, 4, 3, 3), "conv.bias": numbers(8)}
    source |= {f"bn.{name}": numbers(4) for name in ("weight", "bias", "running_mean", "running_var")}
    source |= {
        "bn.num_batches_tracked": np.array(7),
        "lstm.bias_ih_l0": numbers(8),
        "lstm.bias_hh_l0": numbers(8),
    }
    source |= {"lstm.weight_ih_l0": numbers(8, 3), "lstm.weight_hh_l0": numbers(8, 2)}
    convert(source, "flax.msgpack", to="flax")
    convert("flax.msgpack", "torch.npz", to="torch")
    assert_same(values("torch.npz", "torch"), source)


@pytest.mark.parametrize("source", [MLP, SQUARE, MLP | OWN, MLP | NAMED, OPEN], ids=" ".join)
@pytest.mark.parametrize("told", ["nothing", "template", "guesses"])
def test_two_steps_through_the_neutral_form_give_what_one_step_gives_or_are_refused(source, told):
    kernels = {name: name.replace("weight", "kernel") for name in source}
    template = {kernels[name]: value.T if value.ndim == 2 else value for name, value in source.items()}
    options = {
        "nothing": {},
        "template": {"like": FlatState(template, layout="flax")},
        "guesses": {"accept_guesses": True},
    }
    convert(source, "neutral.npz", to="neutral")
    results = []
    for start, name in ((source, "one.safetensors"), ("neutral.npz", "two.safetensors")):
        try:
            convert(start, name, to="flax", **options[told])
        except BridgeError as error:
            results.append(type(error))
        else:
            results.append(values(name).keys())
    assert results[0] == results[1]
    if Path("two.safetensors").exists():
        assert_same(values("two.safetensors"), values("one.safetensors"))


@pytest.mark.parametrize("edited", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("to", ["torch", "flax"])
def test_what_you_have_edited_is_what_is_written(edited, to):
    shared = FlatState({"embed.weight": numbers(6, 4)}, layout="torch").tensor("embed.weight")
    state = FlatState({"embed.weight": shared, "head.weight": shared}, layout="torch")
    state = state.replace(metadata=state.metadata.with_(ties={("head", "weight"): ("embed", "weight")}))
    changed = state.replace(tensors={**state.tensors(), as_key(edited): -numbers(6, 4)})
    convert(changed, "out.npz", to=to, accept_guesses=True)
    found = {name.split(".")[0]: value for name, value in values("out.npz", to).items()}
    head = found["head"].T if to == "flax" else found["head"]
    assert (found["embed"] < 0).all() == (edited == "embed.weight")
    assert (head < 0).all() == (edited == "head.weight")


def test_metadata_that_no_longer_fits_its_tensors_is_not_believed():
    neutral = to_neutral(
        SQUARE | {"up.weight": numbers(3, 5, 2, 2), "up.bias": numbers(5)}, framework="torch"
    )
    parted = neutral.rename({"up.kernel": "conv2.kernel"})
    assert as_key("up") in neutral.metadata.layers
    assert not {as_key("up"), as_key("conv2")} & parted.metadata.layers.keys()
    other = neutral.replace(tensors={**neutral.tensors(), ("up", "kernel"): numbers(2, 2)})
    for state in (parted, other):
        with refused(AmbiguousLayerError) as caught:
            plan_conversion(state, to="flax")
        assert ("up.kernel" in str(caught.value)) != ("conv2.kernel" in str(caught.value))


def test_a_conversion_that_stays_in_one_layout_needs_no_evidence():
    source = SQUARE | OPEN | NAMED | OWN
    report = convert(source, "out.npz", to="torch", layout="torch")
    assert not report.unclaimed
    assert_same(values("out.npz", "torch"), source)


def test_where_right_weights_may_give_other_outputs_there_is_a_warning():
    source = {"conv.weight": numbers(4, 3, 3, 3), "conv.bias": numbers(4)}
    source |= {"fc.weight": numbers(10, 24), "fc.bias": numbers(10)}
    (warning,) = plan_conversion(source, to="flax").warnings
    assert (warning.code, warning.keys) == ("flatten", (("fc", "weight"),))
    assert "c = 4" in warning.rule
    report = convert(
        {"x.bias": np.array([1e6], "float32")}, "o.npz", to="flax", layout="torch", dtype="float16"
    )
    assert [warning.code for warning in report.warnings] == ["overflow"]
    assert set(report.notes) >= {warning.message for warning in report.warnings}


def test_the_report_counts_what_the_tensors_rest_on():
    like = {"fc": {"kernel": numbers(4, 3), "bias": numbers(3)}, "head": {"kernel": numbers(4, 3)}}
    like |= {"norm": {"scale": numbers(4)}} | {name: value for name, value in OWN.items() if "." not in name}
    report = convert(MLP | OPEN | OWN, "out.npz", to="flax", like=like, allow_unexpected="mixer.*")
    assert report.evidence == {"structure": 2, "template": 4}
    assert sum(report.evidence.values()) == report.tensors
    bare = convert(MLP | OWN, "bare.npz", to="flax").to_json()
    assert bare["evidence"] == {"structure": 2, "unclaimed": 3}
    assert sorted(bare["unclaimed"]) == sorted(OWN)


@pytest.mark.parametrize("name", ["consolidated.{:02}.pth", "model-0000{}-of-00002.safetensors"])
def test_a_part_of_a_model_is_not_converted_as_the_whole(name, tmp_path):
    first, second = (tmp_path / name.format(number) for number in (1, 2))
    if "consolidated" in name:
        first, second = (tmp_path / name.format(number) for number in (0, 1))
    for part in (first, second):
        save_state(FlatState(MLP, layout="torch"), part)
    for source in (first, tmp_path):
        with pytest.raises(ShardError):
            convert(source, tmp_path / "out.npz", to="flax")
    assert not (tmp_path / "out.npz").exists()


class _Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (self._path,)


def test_what_a_file_holds_beside_its_weights_is_named_and_never_run(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {name: torch.from_numpy(value) for name, value in MLP.items()}
    torch.save({"state_dict": weights, "odd": _Trap(str(tmp_path / "trap"))}, tmp_path / "m.pt")
    report = convert(tmp_path / "m.pt", tmp_path / "out.npz", to="flax")
    assert any("odd" in note for note in report.notes)
    torch.save({**weights, "odd": _Trap(str(tmp_path / "trap"))}, tmp_path / "among.pt")
    with refused(UnsafeFile, "among.pt", "odd", "mkdir"):
        convert(tmp_path / "among.pt", tmp_path / "out2.npz", to="flax")
    assert not (tmp_path / "trap").exists()
    assert not (tmp_path / "out2.npz").exists()


def test_a_plugin_that_fails_takes_nothing_else_with_it(tmp_path):
    save_state(FlatState(MLP, layout="torch"), tmp_path / "m.safetensors")
    sources = {"acme-exits": "import sys\nsys.exit(0)", "acme-sniffs": format_source("sniffs", sniff="1 / 0")}
    with installed(install(tmp_path / "site", sources)), pytest.warns(RuntimeWarning) as warned:
        convert(tmp_path / "m.safetensors", tmp_path / "out.npz", to="flax")
    assert_same(values(tmp_path / "out.npz"), {"fc.kernel": MLP["fc.weight"].T, "fc.bias": MLP["fc.bias"]})
    assert sorted(name for name in sources for w in warned if name in str(w.message)) == sorted(sources)

"""``only=``: which tensors of a source are converted, and of which only the first entries."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.errors import refused

import bridge_core
from bridge_core import AmbiguousLayerError, FlatState, MismatchError, UsageError, convert, open_state, verify
from bridge_core.io import SourceFile
from bridge_core.plan import Plan
from bridge_core.rules import Rule
from bridge_core.state import ArrayTensor, FileTensor, LazyTensor, StridedFileTensor, TensorSpec, shortened

RNG = np.random.default_rng(0)


def values(*shape):
    return RNG.standard_normal(shape).astype("f4")


def model(layers=4, prefix="model.layers."):
    """Return weights in torch's layout: a list of layers, an embedding and a head."""
    weights = {}
    for i in range(layers):
        weights[f"{prefix}{i}.fc.weight"] = values(5, 4)
        weights[f"{prefix}{i}.fc.bias"] = values(5)
        weights[f"{prefix}{i}.norm.weight"] = values(4)
        weights[f"{prefix}{i}.norm.bias"] = values(4)
    return {
        **weights,
        "model.embed.weight": values(20, 4),
        "head.weight": values(20, 4),
        "head.bias": values(20),
    }


WEIGHTS = model()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.safetensors"
    save_file(WEIGHTS, path)
    return path


def names(state):
    return {".".join(key) for key in state}


def taken(only, source=None, **options):
    plan = bridge_core.plan_conversion(
        WEIGHTS if source is None else source, to="torch", only=only, **options
    )
    return names(plan.specs)


def of_layers(*numbers, leaf=""):
    return {name for n in numbers for name in WEIGHTS if name.startswith(f"model.layers.{n}.{leaf}")}


OUTSIDE = {name for name in WEIGHTS if ".layers." not in name}
NAMED = {
    "model.layers.1": of_layers(1),
    "model/layers/1": of_layers(1),
    "model.layers.1.fc.weight": {"model.layers.1.fc.weight"},
    "model.layers.*.norm": of_layers(0, 1, 2, 3, leaf="norm"),
    "**.fc.*": of_layers(0, 1, 2, 3, leaf="fc"),
    "{head|model.embed}.weight": {"head.weight", "model.embed.weight"},
    "**": set(WEIGHTS),
    "model.layers=2": of_layers(0, 1) | OUTSIDE,
    "**.layers=2": of_layers(0, 1) | OUTSIDE,
    "model/layers=2": of_layers(0, 1) | OUTSIDE,
    "model.layers.{i:int}=2": of_layers(0, 1) | OUTSIDE,
    "model.layers.{i:int}.fc=1": of_layers(0, 1, 2, 3) - of_layers(1, 2, 3, leaf="fc") | OUTSIDE,
    "model.layers.{n:int}.fc.**=1": of_layers(0, 1, 2, 3) - of_layers(1, 2, 3, leaf="fc") | OUTSIDE,
    "model.*=2": of_layers(0, 1) | OUTSIDE,
    "model.layers=4": set(WEIGHTS),
    "model.embed.weight=3": set(WEIGHTS),
}


@pytest.mark.parametrize("only", NAMED)
def test_what_a_pattern_takes(only):
    assert taken(only) == NAMED[only]
    assert taken([only]) == NAMED[only]


def test_patterns_together():
    """Without a number a pattern adds; with one it takes fewer of what it names."""
    assert taken(["head", "model.layers.3"]) == {"head.weight", "head.bias"} | of_layers(3)
    assert taken(["head", "model.layers=1"]) == {"head.weight", "head.bias"} | of_layers(0)
    assert taken(["model.layers=3", "**.layers.{i:int}.norm=1"]) == (
        of_layers(0, 1, 2) - of_layers(1, 2, leaf="norm") | OUTSIDE
    )


@pytest.mark.parametrize("form", ["layers_", "layers"])
def test_lists_in_other_forms(form):
    weights = model(3, f"decoder.{form}")
    assert taken("decoder.layers=2", weights) == {n for n in weights if f"{form}2." not in n}


def test_names_of_flax_without_collection():
    tree = {"params": {f"layers_{i}": {"Dense_0": {"kernel": values(4, 5)}} for i in range(3)}}
    plan = bridge_core.plan_conversion(tree, to="flax", layout="flax", only="layers=2")
    assert names(plan.specs) == {f"params.layers_{i}.Dense_0.kernel" for i in range(2)}
    plan = bridge_core.plan_conversion(tree, to="torch", layout="flax", only="params/layers_1/Dense_0")
    assert [step.targets for step in plan.steps] == [(("layers_1", "Dense_0", "weight"),)]


def test_entries_are_counted_in_order_of_their_numbers():
    weights = {f"features.{n}.weight": values(3) for n in (10, 3, 0, 6)}
    assert taken("features=2", weights) == {"features.0.weight", "features.3.weight"}


REFUSED = {
    "model.layers=5": ("model.layers", "5", "4"),
    "**.layers=5": ("model.layers", "5", "4"),
    "model.embed.weight=21": ("model.embed.weight", "21", "20"),
    "model.embed.weight[1]=5": ("model.embed.weight", "axis 1", "4"),
    "head.bias[1]=1": ("head.bias", "axis 1"),
    "model.layers[0]=2": ("model.layers[0]=2",),
    "model.layers=0": ("'0'",),
    "model.layers=-1": ("'-1'",),
    "model.layers=two": ("'two'",),
    "model.layers=1.5": ("'1.5'",),
    "model.layers=": ("''",),
    "=2": (),
    "model.layrs": ("model.layrs",),
    "model.layrs=2": ("model.layrs=2",),
    "model=2": ("model=2",),
    "model.layers.**=2": ("2 meanings",),
    "{i:int}.{j:int}=1": ("2 numbers",),
    "model.layers.{i:int}.gone=1": ("no entry",),
    "head.weight?": ("'?'",),
    "model.(a|b).*": (),
    "": (),
}


@pytest.mark.parametrize("only", REFUSED)
def test_what_is_refused(only):
    with refused(UsageError, *REFUSED[only]):
        bridge_core.plan_conversion(WEIGHTS, to="torch", only=only)


@pytest.mark.parametrize("only", [3, b"model", {"model": 2}, [["model"]], [None], True])
def test_other_types_are_refused(only):
    with refused(UsageError, "only="):
        bridge_core.plan_conversion(WEIGHTS, to="torch", only=only)


def test_the_nearest_name_is_given():
    with refused(UsageError, "model.layer.1", hint="model.layers.1"):
        bridge_core.plan_conversion(WEIGHTS, to="torch", only="model.layer.1")


def test_a_list_and_a_tensor_with_one_name():
    weights = {"x.h.0.weight": values(3), "x.h_0.weight": values(3), "y.w": values(3), "y.w.0": values(3)}
    with refused(UsageError, "2 meanings", "x.h.0", "x.h_0"):
        taken("x.h=1", weights)
    with refused(UsageError, "2 meanings", "y.w"):
        taken("y.w=1", weights)
    assert taken("x.h_{i:int}=1", weights) == set(weights)


def test_two_numbers_for_one_tensor():
    with refused(UsageError, "model.embed.weight", "3", "4"):
        taken(["model.embed.weight=3", "**.embed.weight=4"])


@pytest.mark.parametrize("to", ["torch", "flax", "neutral"])
@pytest.mark.parametrize("only", ["model.layers.2", "model.layers=2", ["**.norm", "head"]])
def test_each_tensor_is_what_it_is_in_the_entire_conversion(source, tmp_path, to, only):
    all_of_it, part = tmp_path / "all.safetensors", tmp_path / "part.safetensors"
    convert(source, all_of_it, to=to, accept_guesses=True)
    report = convert(source, part, to=to, only=only, accept_guesses=True)
    whole, found = load_file(all_of_it), load_file(part)
    assert len(found) == report.tensors < len(whole)
    for name, array in found.items():
        np.testing.assert_array_equal(array, whole[name])
    assert report.exact
    assert verify(source, part, only=only, accept_guesses=True).equal


@pytest.mark.parametrize("to", ["torch", "flax", "neutral"])
def test_the_first_rows(source, tmp_path, to):
    path = tmp_path / "part.safetensors"
    only = ["model.embed.weight=3", "head.weight=7", "head.bias=7", "model.layers=1"]
    convert(source, path, to=to, only=only, accept_guesses=True)
    state = open_state(path, layout=to)
    back = convert(path, tmp_path / "back.safetensors", to="torch", layout=to, accept_guesses=True)
    found = load_file(back.files[0])
    np.testing.assert_array_equal(found["model.embed.weight"], WEIGHTS["model.embed.weight"][:3])
    np.testing.assert_array_equal(found["head.weight"], WEIGHTS["head.weight"][:7])
    np.testing.assert_array_equal(found["head.bias"], WEIGHTS["head.bias"][:7])
    assert len(state) == 7


def test_another_axis_and_both():
    plan = bridge_core.plan_conversion(
        WEIGHTS, to="torch", only=["model.embed.weight[1]=2", "model.embed.weight=3", "model.embed"]
    )
    assert {k: s.shape for k, s in plan.specs.items()} == {("model", "embed", "weight"): (3, 2)}


def test_entries_of_stacked_layers():
    """Layers that a scan keeps in one tensor each are rows of it."""
    tree = {"layers.fc.kernel": values(4, 5, 3), "layers.fc.bias": values(4, 3), "head.kernel": values(3, 6)}
    plan = bridge_core.plan_conversion(tree, to="flax", layout="flax", only="layers.**=2")
    shapes = {".".join(key): spec.shape for key, spec in plan.specs.items()}
    assert shapes == {"layers.fc.kernel": (2, 5, 3), "layers.fc.bias": (2, 3), "head.kernel": (3, 6)}


STACK = Rule.rearrange("model.layers.{i:int}.fc.weight", "layers.fc.kernel", "out in -> i in out")


def test_a_stack_of_the_first_layers(source, tmp_path):
    drops = [Rule.drop("**.norm.*", "x"), Rule.drop("**.fc.bias", "x")]
    path = tmp_path / "part.safetensors"
    convert(source, path, to="flax", rules=[STACK, *drops], only=["model.layers=2"], accept_guesses=True)
    expected = np.stack([WEIGHTS[f"model.layers.{i}.fc.weight"].T for i in range(2)])
    np.testing.assert_array_equal(load_file(path)["layers.fc.kernel"], expected)


@pytest.mark.parametrize("only", ["model.layers.1", ["model.layers.0", "model.layers.1"], "**.fc.bias"])
def test_a_part_of_a_stack_is_refused(source, only):
    """Which of the layers a shorter stack holds could not be seen in it."""
    if only == "**.fc.bias":
        plan = bridge_core.plan_conversion(source, to="flax", rules=[STACK], only=only)
        assert len(plan.steps) == 4
        return
    with refused(UsageError, "layers.fc.kernel", "fc.weight", hint="=2"):
        bridge_core.plan_conversion(source, to="flax", rules=[STACK], only=only)


def template(tmp_path, source, **more):
    convert(source, tmp_path / "whole.safetensors", to="flax", accept_guesses=True)
    arrays = {**load_file(tmp_path / "whole.safetensors"), **more}
    save_file(arrays, tmp_path / "like.safetensors")
    return open_state(tmp_path / "like.safetensors", layout="flax")


def test_what_left_out_sources_make_is_not_missing(source, tmp_path):
    like = template(tmp_path, source)
    report = convert(source, tmp_path / "o.safetensors", to="flax", like=like, only="model.layers.1")
    assert names(report.unfilled) == names(like) - names(open_state(tmp_path / "o.safetensors"))
    assert len(load_file(tmp_path / "o.safetensors")) == 4


def test_what_nothing_makes_is_missing_still(source, tmp_path):
    like = template(tmp_path, source, **{"extra.kernel": values(2, 3)})
    with refused(MismatchError, "extra.kernel"):
        convert(source, tmp_path / "o.safetensors", to="flax", like=like, only="model.layers.1")
    report = convert(
        source,
        tmp_path / "o.safetensors",
        to="flax",
        like=like,
        only="model.layers.1",
        allow_missing="extra.**",
    )
    assert report.tensors == 4


def test_a_template_of_the_part(source, tmp_path):
    only = ["model.layers=2", "head.weight=3", "head.bias=3", "model.embed.weight=3"]
    part = tmp_path / "part.safetensors"
    convert(source, part, to="flax", only=only, accept_guesses=True)
    like = open_state(part, layout="flax")
    report = convert(source, tmp_path / "again.safetensors", to="flax", like=like, only=only)
    assert report.unfilled == ()
    one, other = load_file(tmp_path / "again.safetensors"), load_file(part)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    with refused(MismatchError, "head.kernel", "[4, 3]"):
        convert(source, tmp_path / "x.safetensors", to="flax", like=template(tmp_path, source), only=only)


def test_less_evidence_does_not_decide_more(tmp_path):
    """A square weight next to one whose bias contradicts ``out in`` stays open when it is chosen alone."""
    weights = {
        "a.c.weight": values(4, 6),
        "a.c.bias": values(6),
        "a.d.weight": values(4, 4),
        "a.d.bias": values(4),
    }
    plan = bridge_core.plan_conversion(weights, to="flax", layout="torch", check=False)
    assert not plan.ok
    alone = bridge_core.plan_conversion(weights, to="flax", layout="torch", only=["a.d"], check=False)
    assert not alone.ok
    weights |= {"b.weight": values(6, 4), "b.bias": values(6)}
    rows = ["b.weight=3", "b.bias=3"]
    planned_anew = bridge_core.plan_conversion(
        weights, to="flax", layout="torch", only=["a.d", *rows], check=False
    )
    assert set(planned_anew.ambiguous) == {("a", "d", "weight"), ("a", "d", "bias")}
    assert bridge_core.plan_conversion(weights, to="flax", layout="torch", only=["b", *rows]).ok


class Counted:
    """How many bytes of a file are read."""

    def __init__(self, monkeypatch):
        self.bytes = 0
        read_into, read, read_runs = SourceFile.read_into, SourceFile.read, SourceFile.read_runs

        def counted_into(file, offset, out):
            self.bytes += memoryview(out).nbytes
            return read_into(file, offset, out)

        def counted_read(file, offset, length):
            self.bytes += length
            return read(file, offset, length)

        def counted_runs(file, offset, stride, length, out):
            self.bytes += memoryview(out).nbytes
            return read_runs(file, offset, stride, length, out)

        monkeypatch.setattr(SourceFile, "read_into", counted_into)
        monkeypatch.setattr(SourceFile, "read", counted_read)
        monkeypatch.setattr(SourceFile, "read_runs", counted_runs)


@pytest.mark.counts
@pytest.mark.parametrize("to", ["torch", "flax"])
@pytest.mark.parametrize("only", ["layers.1", ["layers.1", "layers.1.fc.weight=100", "layers.1.fc.bias=100"]])
def test_nothing_else_is_read(tmp_path, monkeypatch, to, only):
    weights = {}
    for i in range(8):
        weights[f"layers.{i}.fc.weight"], weights[f"layers.{i}.fc.bias"] = values(300, 500), values(300)
    save_file(weights, tmp_path / "s.safetensors")
    monkeypatch.setattr(SourceFile, "can_copy", False)
    counted = Counted(monkeypatch)
    bridge_core.plan_conversion(tmp_path / "s.safetensors", to=to, only=only)
    of_header, counted.bytes = counted.bytes, 0
    report = convert(tmp_path / "s.safetensors", tmp_path / "o.safetensors", to=to, only=only, verify=False)
    assert report.total_bytes <= counted.bytes - of_header <= 1.05 * report.total_bytes
    assert of_header < 200_000


def test_ties_stay(tmp_path):
    torch = pytest.importorskip("torch")
    table = torch.randn(20, 4)
    weights = {"embed.weight": table, "head.weight": table, "fc.weight": torch.randn(3, 4)}
    torch.save(weights, tmp_path / "m.pt")
    convert(tmp_path / "m.pt", tmp_path / "o.pt", to="torch", only="embed.weight=5")
    found = torch.load(tmp_path / "o.pt")
    assert found["embed.weight"].shape == (5, 4)
    assert found["head.weight"].data_ptr() == found["embed.weight"].data_ptr()
    assert torch.equal(found["embed.weight"], table[:5])
    with refused(UsageError, "head.weight"):
        convert(tmp_path / "m.pt", tmp_path / "x.pt", to="torch", only=["embed.weight=5", "head.weight=6"])
    for one, other in (("embed", "head"), ("head", "embed")):
        convert(tmp_path / "m.pt", tmp_path / f"{one}.pt", to="torch", only=one)
        assert list(torch.load(tmp_path / f"{one}.pt")) == [f"{one}.weight"], other


def test_a_tensor_that_another_stands_for(tmp_path):
    """The template has only the table; the head alone does not fill it."""
    torch = pytest.importorskip("torch")
    table = torch.randn(20, 4)
    torch.save({"embed.weight": table, "head.weight": table}, tmp_path / "m.pt")
    save_file({"embed.embedding": values(20, 4)}, tmp_path / "like.safetensors")
    like = open_state(tmp_path / "like.safetensors", layout="flax")
    whole = bridge_core.plan_conversion(tmp_path / "m.pt", to="flax", like=like)
    assert [drop.tied_to for drop in whole.dropped] == [("embed", "weight")]
    assert bridge_core.plan_conversion(tmp_path / "m.pt", to="flax", like=like, only="embed").ok
    with refused(MismatchError, "head.weight"):
        bridge_core.plan_conversion(tmp_path / "m.pt", to="flax", like=like, only="head")


def test_a_sharded_source(tmp_path):
    folder = tmp_path / "sharded"
    save = bridge_core.save_state
    save(FlatState(WEIGHTS, layout="torch"), f"{folder}/", format="safetensors", max_shard_size=400)
    convert(folder, tmp_path / "o.safetensors", to="torch", only="model.layers=1")
    found = load_file(tmp_path / "o.safetensors")
    assert set(found) == of_layers(0) | OUTSIDE
    assert all(np.array_equal(found[name], WEIGHTS[name]) for name in found)


def test_a_neutral_source(source, tmp_path):
    """The records of the layers follow: both ways of two steps give the same bytes."""
    neutral, part = tmp_path / "n.safetensors", tmp_path / "p.safetensors"
    convert(source, neutral, to="neutral")
    convert(neutral, part, to="neutral", only=["model.layers=2"])
    assert open_state(part).metadata.layers.keys() < open_state(neutral).metadata.layers.keys()
    convert(part, tmp_path / "a.safetensors", to="flax", accept_guesses=True)
    convert(source, tmp_path / "b.safetensors", to="flax", only="model.layers=2", accept_guesses=True)
    one, other = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_dtype_is_cast(source, tmp_path):
    report = convert(source, tmp_path / "o.safetensors", to="torch", only="head", dtype="float16")
    assert not report.exact
    assert {a.dtype.name for a in load_file(tmp_path / "o.safetensors").values()} == {"float16"}


def test_what_is_left_out_is_counted(source):
    plan = bridge_core.plan_conversion(source, to="torch", only=["model.layers=2", "model.embed.weight=3"])
    document = plan.to_json()
    assert document["only"] == {
        "patterns": ["model.layers=2", "model.embed.weight=3"],
        "taken": {"tensors": 11, "bytes": 2 * 4 * 33 + 4 * 12 + 4 * 100},
        "of": {"tensors": 19, "bytes": 4 * 4 * 33 + 4 * 80 + 4 * 100},
        "shortened": [{"name": "model.embed.weight", "shape": [3, 4], "of": [20, 4]}],
    }
    left_out = {entry["name"]: entry["bytes"] for entry in document["left_out"]}
    assert left_out == {"model.layers.2": 4 * 33, "model.layers.3": 4 * 33}
    assert any("11 of 19" in note for note in plan.notes)
    assert "only" not in bridge_core.plan_conversion(source, to="torch").to_json()


def test_the_plan_applies_to_the_part_only(source):
    plan = bridge_core.plan_conversion(source, to="torch", only="head")
    assert isinstance(plan, Plan)
    part = open_state(source).select(["head.weight", "head.bias"])
    assert names(plan.apply(part)) == {"head.weight", "head.bias"}


def test_an_unwritten_layer_does_not_stop_a_chosen_one():
    weights = {**WEIGHTS, "model.layers.9.gate_weight": values(3, 4)}
    with pytest.raises(bridge_core.BridgeError):
        bridge_core.plan_conversion(weights, to="flax", layout="torch")
    assert bridge_core.plan_conversion(weights, to="flax", layout="torch", only="model.layers.1").ok
    with pytest.raises((AmbiguousLayerError, bridge_core.BridgeError)):
        bridge_core.plan_conversion(weights, to="flax", layout="torch", only="model.layers.9")


ARRAY = values(6, 5, 4)
FLAT = TensorSpec((120,), np.dtype("f4"))


def lazy():
    return LazyTensor(ArrayTensor(ARRAY).spec, lambda region: ARRAY[region], (4, 4, 4))


@pytest.mark.parametrize("sizes", [{0: 2}, {1: 3}, {2: 1}, {0: 1, 2: 3}, {0: 6}, {}])
def test_shortened_tensors(tmp_path, sizes):
    save_file({"a": ARRAY, "b": ARRAY[:1]}, tmp_path / "a.safetensors")
    state = open_state(tmp_path / "a.safetensors")
    expected = ARRAY[tuple(slice(sizes.get(axis)) for axis in range(3))]
    strided = StridedFileTensor(
        FileTensor(state.tensor("a").file, state.tensor("a").offset, FLAT), 0, (4, 5, 6), (1, 4, 20)
    )
    transposed = np.transpose(ARRAY, (2, 1, 0))[tuple(slice(sizes.get(axis)) for axis in range(3))]
    for tensor, array in (
        (ArrayTensor(ARRAY), expected),
        (lazy(), expected),
        (state.tensor("a"), expected),
        (strided, transposed),
    ):
        if any(
            size > n
            for size, n in zip((sizes.get(axis, 0) for axis in range(3)), tensor.spec.shape, strict=True)
        ):
            continue
        short = shortened(tensor, sizes)
        assert short.spec.shape == array.shape
        region = tuple(slice(0, n, 1) for n in array.shape)
        np.testing.assert_array_equal(short.read(region), array)
        if array.shape[0] > 1:
            inner = (slice(1, array.shape[0], 1), *region[1:])
            np.testing.assert_array_equal(short.read(inner), array[1:])
    if 0 not in sizes:
        first = shortened(state.tensor("b"), sizes)
        np.testing.assert_array_equal(
            first.read(tuple(slice(0, n, 1) for n in first.spec.shape)), expected[:1]
        )

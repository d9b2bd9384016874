"""The mistakes between two states: of each tensor, in groups, and under other names."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import bridge_core
from bridge_core.proof.differences import blocks, name_differences
from bridge_core.state import FlatState, LazyTensor, TensorSpec


@pytest.fixture(scope="module")
def weights():
    generator = np.random.default_rng(0)
    names = [f"layers.{n}.{part}.weight" for n in range(6) for part in ("q", "k", "v", "o")]
    arrays = {name: generator.standard_normal((16, 16), np.float32) for name in names}
    arrays |= {f"layers.{n}.norm.weight": generator.standard_normal(16, np.float32) for n in range(6)}
    return arrays | {
        "embed.weight": generator.standard_normal((50, 16), np.float32),
        "zeros": np.zeros(16, "f4"),
    }


def named(left, right):
    left, right = bridge_core.as_state(left), bridge_core.as_state(right)
    return name_differences(left, right, bridge_core.compare_states(left, right))


def changed(weights, change):
    return {name: np.ascontiguousarray(change(name, array)) for name, array in weights.items()}


def test_one_mistake_in_all_is_one_sentence(weights):
    found = named(weights, changed(weights, lambda _, a: a.T if a.shape == (16, 16) else a))
    assert found.sum("A", "B") == "24 tensors differ, all as if transposed"
    (mistake,) = found.mistakes()
    assert (mistake.kind, len(mistake.keys)) == ("transposed", 24)


def test_groups_are_told_with_the_largest_first(weights):
    def change(name, array):
        if "norm" in name:
            return array + np.float32(1)
        return array.T if ".q." in name or ".k." in name else array

    sum_line = named(weights, changed(weights, change)).sum()
    assert sum_line.index("12 as if transposed") < sum_line.index("6 as if shifted by 1")


def test_what_is_unknown_comes_last(weights):
    other = dict(weights)
    for name in ("layers.0.q.weight", "layers.1.q.weight"):
        other[name] = np.random.default_rng(7).standard_normal((16, 16), np.float32)
    other["layers.2.q.weight"] = other["layers.2.q.weight"] * np.float32(0.25)
    found = named(weights, other)
    assert found.sum().endswith("1 as if scaled by 0.25; 2 in no way that is known")
    assert [mistake.kind for mistake in found.mistakes()] == ["scaled", "unknown"]


def test_layers_that_are_off_by_one(weights):
    other = dict(weights)
    for n in range(1, 6):
        for part in "qkvo":
            other[f"layers.{n}.{part}.weight"] = weights[f"layers.{n - 1}.{part}.weight"]
    found = named(weights, other)
    assert "off by one (n holds n-1)" in found.sum()
    assert found.relations["layers", "3", "v", "weight"].other == ("layers", "2", "v", "weight")


def test_one_layer_loaded_into_all_is_found_although_it_is_equal_itself(weights):
    other = dict(weights) | {f"layers.{n}.o.weight": weights["layers.3.o.weight"] for n in range(6)}
    found = named(weights, other)
    assert {relation.other for relation in found.relations.values()} == {("layers", "3", "o", "weight")}
    assert len(found.relations) == 5


def test_experts_that_were_permuted(weights):
    order = [3, 0, 5, 1, 2, 4]
    other = dict(weights) | {f"layers.{n}.q.weight": weights[f"layers.{order[n]}.q.weight"] for n in range(6)}
    assert "the numbers in their names were permuted" in named(weights, other).sum()


def test_names_that_were_swapped(weights):
    other = dict(weights)
    other["layers.0.k.weight"], other["layers.0.v.weight"] = (
        weights["layers.0.v.weight"],
        weights["layers.0.k.weight"],
    )
    assert named(weights, other).sum() == "2 tensors differ, all as if their names were swapped"


def test_another_layers_content_that_was_transposed_too(weights):
    other = dict(weights) | {"layers.0.k.weight": np.ascontiguousarray(weights["layers.0.v.weight"].T)}
    relation = named(weights, other).relations["layers", "0", "k", "weight"]
    assert (relation.other, relation.kinds) == (
        ("layers", "0", "v", "weight"),
        ("other tensor", "transposed"),
    )


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda a: a, ()),
        (lambda a: a.T, ("transposed",)),
        (lambda a: a.astype("f2"), ("rounded",)),
        (lambda a: a.astype(ml_dtypes.bfloat16).astype("f4"), ("rounded",)),
        (lambda a: -a, ("negated",)),
    ],
)
def test_keys_that_were_renamed(weights, change, kinds):
    other = {f"model.{name}": np.ascontiguousarray(change(array)) for name, array in weights.items()}
    found = named(weights, other)
    expected = {("model", *key): key for key in bridge_core.as_state(weights) if key != ("zeros",)}
    assert {key: relation.other for key, relation in found.only_right.items()} == expected
    square = found.only_right["model", "layers", "0", "q", "weight"]
    assert square.kinds == ("other tensor", *kinds)
    assert found.sum() == f"31 tensors renamed{' and changed' if kinds else ''}"


def test_constants_prove_nothing_about_names(weights):
    assert named({"a": np.zeros(64, "f4")}, {"b": np.zeros(64, "f4")}).only_right == {}


def test_the_document_has_what_the_comparison_has(weights):
    found = named(weights, changed(weights, lambda _, a: a * np.float32(3)))
    document = found.to_json("A", "B")
    assert document["differing"][0]["relation"]["kind"] == "scaled"
    plain = found.comparison.to_json()
    assert {key: value for key, value in document.items() if key in plain and key != "differing"} == {
        key: value for key, value in plain.items() if key != "differing"
    }


def test_progress_is_told_in_bytes(weights):
    left = bridge_core.as_state(weights)
    right = bridge_core.as_state(changed(weights, lambda _, a: a[::-1]))
    seen = []
    name_differences(left, right, bridge_core.compare_states(left, right), progress=seen.append)
    assert all(one.done < two.done for one, two in itertools.pairwise(seen))
    assert (seen[-1].done, seen[-1].phase) == (seen[-1].total, "naming")


class Counted:
    """Tensors that count what is read of them at a time, and in sum."""

    def __init__(self, arrays):
        self.largest = self.total = 0
        self.state = FlatState({name: self.tensor(array) for name, array in arrays.items()})

    def tensor(self, array):
        def read(region):
            part = array[region]
            self.largest, self.total = max(self.largest, part.nbytes), self.total + part.nbytes
            return part

        return LazyTensor(TensorSpec(array.shape, array.dtype), read)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda a: a.T, "transposed"),
        (lambda a: a[::-1], "flipped"),
        (lambda a: np.roll(a, 60, 0), "swapped parts"),
        (lambda a: a.reshape(3, 2, 20, 90).swapaxes(1, 2).reshape(120, 90), "interleaved"),
        (lambda a: a[np.random.default_rng(0).permutation(120)], "permuted"),
        (lambda a: a.astype("f2").astype("f4"), "rounded"),
        (lambda a: a * np.float32(0.5), "scaled"),
        (lambda a: np.concatenate([a, a[:4] * 0]), "padded"),
        (lambda a: a.ravel(order="F").reshape(a.shape), "Fortran order"),
        (lambda a: np.random.default_rng(1).standard_normal(a.shape, np.float32), None),
    ],
)
def test_large_tensors_are_read_by_blocks(change, kind, monkeypatch):
    monkeypatch.setattr(blocks, "_HELD", 1000)
    monkeypatch.setattr(blocks, "_FAR", 1200)
    array = np.random.default_rng(0).standard_normal((120, 90), np.float32)
    left, right = Counted({"w": array}), Counted({"w": np.ascontiguousarray(change(array))})
    comparison = bridge_core.compare_states(left.state, right.state)
    left.largest = right.largest = left.total = right.total = 0
    found = name_differences(left.state, right.state, comparison)
    relation = found.relations.get(("w",))
    assert (relation.kind if relation else None) == kind
    assert max(left.largest, right.largest) <= 4 * 1200 * 4
    assert right.total <= 4 * array.nbytes
    assert left.total <= 7 * array.nbytes


def test_the_time_is_in_proportion_to_the_number_of_tensors(monkeypatch):
    """Every tensor differs, and each may be any other's content."""
    from bridge_core.proof.differences import other_tensors

    reads = []
    inner = other_tensors.elements
    monkeypatch.setattr(other_tensors, "elements", lambda *args: reads.append(1) or inner(*args))
    draw = np.random.default_rng(0)
    counts = []
    for number in (20, 80):
        left, right = (
            bridge_core.as_state({f"w{n}": draw.normal(size=(3, 4)).astype("float32") for n in range(number)})
            for _ in range(2)
        )
        reads.clear()
        name_differences(left, right, bridge_core.compare_states(left, right))
        counts.append(len(reads))
    assert counts[1] <= 5 * counts[0]

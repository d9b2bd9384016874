"""A layer of which one side has only some leaves: what is there matches, and only the rest is missing."""

import itertools

import numpy as np
import pytest

from bridge_core import convert, open_state, plan_conversion
from bridge_core.state import join_key

LEAVES = {
    "linear": ({"weight": (5, 4), "bias": (5,)}, {"weight": ("kernel", (1, 0)), "bias": ("bias", (0,))}),
    "square": ({"weight": (4, 4), "bias": (4,)}, {"weight": ("kernel", (1, 0)), "bias": ("bias", (0,))}),
    "conv": (
        {"weight": (5, 2, 3, 1), "bias": (5,)},
        {"weight": ("kernel", (2, 3, 1, 0)), "bias": ("bias", (0,))},
    ),
    "embedding": ({"weight": (7, 3)}, {"weight": ("embedding", (0, 1))}),
    "norm": ({"weight": (5,), "bias": (5,)}, {"weight": ("scale", (0,)), "bias": ("bias", (0,))}),
    "batch_norm": (
        {"weight": (5,), "bias": (5,), "running_mean": (5,), "running_var": (5,)},
        {
            "weight": ("scale", (0,)),
            "bias": ("bias", (0,)),
            "running_mean": ("mean", (0,)),
            "running_var": ("var", (0,)),
        },
    ),
}
"""torch's leaf -> shape, and torch's leaf -> Flax's and the order of axes there."""

CASES = [
    (kind, subset, direction)
    for kind, (shapes, _) in LEAVES.items()
    for size in range(1, len(shapes))
    for subset in itertools.combinations(shapes, size)
    for direction in ("torch to flax", "flax to torch")
]


def both_sides(kind):
    """Return a layer's values by torch's names, by Flax's, and torch's name -> Flax's."""
    shapes, leaves = LEAVES[kind]
    torch = {
        name: np.arange(np.prod(shape), dtype="float32").reshape(shape) + number
        for number, (name, shape) in enumerate(shapes.items())
    }
    flax = {leaves[name][0]: value.transpose(leaves[name][1]) for name, value in torch.items()}
    return torch, flax, {name: leaf for name, (leaf, _) in leaves.items()}


def in_tree(layer):
    """Return Flax's keys; another layer makes the layout certain."""
    anchor = {"params.anchor.kernel": np.ones((2, 3), "float32"), "params.anchor.bias": np.ones(3, "float32")}
    collection = {"mean": "batch_stats", "var": "batch_stats"}
    return {f"{collection.get(name, 'params')}.l.{name}": value for name, value in layer.items()} | anchor


def in_state_dict(layer):
    anchor = {"anchor.weight": np.ones((3, 2), "float32"), "anchor.bias": np.ones(3, "float32")}
    return {f"l.{name}": value for name, value in layer.items()} | anchor


@pytest.mark.parametrize(("kind", "subset", "direction"), CASES, ids=str)
@pytest.mark.parametrize("partial", ["source", "target"])
def test_only_what_is_not_there_is_missing_or_unexpected(kind, subset, direction, partial):
    torch, flax, names = both_sides(kind)
    some_torch = {name: torch[name] for name in subset}
    some_flax = {names[name]: flax[names[name]] for name in subset}
    if direction == "torch to flax":
        source, like = (some_torch, flax) if partial == "source" else (torch, some_flax)
        source, like, to, layout = in_state_dict(source), in_tree(like), "flax", "torch"
    else:
        source, like = (some_flax, torch) if partial == "source" else (flax, some_torch)
        source, like, to, layout = in_tree(source), in_state_dict(like), "torch", "flax"
    plan = plan_conversion(source, to=to, like=like, layout=layout, check=False)
    absent = {name for name in torch if name not in subset}
    absent |= {names[name] for name in absent}
    missing, unexpected = ({key[-1] for key in keys} for keys in (plan.missing, plan.unexpected))
    assert missing == (absent & {key.rpartition(".")[2] for key in like} if partial == "source" else set())
    rest = absent & {key.rpartition(".")[2] for key in source}
    assert unexpected == (rest if partial == "target" else set())
    assert not {**plan.ambiguous, **plan.unexplained, **plan.unsupported}


@pytest.mark.parametrize("direction", ["torch to flax", "flax to torch"])
def test_what_is_there_arrives_bit_for_bit(direction, tmp_path):
    torch, flax, _ = both_sides("batch_norm")
    state, tree = in_state_dict(torch), in_tree(flax)
    extra = {"l.num_batches_tracked": np.array(7)}
    if direction == "torch to flax":
        source, like, to, layout, end = state | extra, tree, "flax", "torch", "running_var"
    else:
        source, like, to, layout, end = tree, state, "torch", "flax", "var"
    source = {name: value for name, value in source.items() if name.rpartition(".")[2] != end}
    report = convert(source, tmp_path / "r.npz", to=to, like=like, layout=layout, allow_missing="l.*")
    assert len(report.unfilled) == 1
    with open_state(tmp_path / "r.npz") as made:
        values = {join_key(key): made[key] for key in made}
    expected = {name: v for name, v in like.items() if name.rpartition(".")[2] not in ("var", "running_var")}
    assert values.keys() == expected.keys()
    assert all(values[name].tobytes() == value.tobytes() for name, value in expected.items())
    whole = state | extra if layout == "torch" else tree
    convert(tmp_path / "r.npz", tmp_path / "b.npz", to=layout, like=whole, allow_missing=f"l.{end}")
    with open_state(tmp_path / "b.npz") as made:
        restored = {join_key(key): made[key] for key in made}
    if layout == "torch":
        assert restored["l.num_batches_tracked"] == 7
    assert {n: v.tobytes() for n, v in restored.items()} == {n: v.tobytes() for n, v in source.items()}


def test_a_matrix_that_its_module_denies_is_not_read_as_the_templates_layer():
    import torch

    class Turned(torch.nn.Linear):
        def __init__(self):
            super().__init__(4, 6)
            self.weight = torch.nn.Parameter(torch.zeros(4, 6))

    model = torch.nn.ModuleDict({"fc": Turned()})
    like = {"fc": {"kernel": np.zeros((6, 4), "float32"), "bias": np.zeros(6, "float32")}}
    plan = plan_conversion(model, to="flax", like=like, check=False)
    assert not plan.ok


def test_a_module_of_an_unknown_type_is_not_read_as_a_part_of_the_templates_layer():
    import torch

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(5))
            self.bias = torch.nn.Parameter(torch.ones(5))

    like = {"params": {"l": {"scale": np.ones(5, "f4"), "bias": np.ones(5, "f4")}}}
    like["batch_stats"] = {"l": {"mean": np.ones(5, "f4"), "var": np.ones(5, "f4")}}
    plan = plan_conversion(torch.nn.ModuleDict({"l": Own()}), to="flax", like=like, check=False)
    assert ("l", "weight") in plan.unexpected

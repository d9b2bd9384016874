"""What the words of a path suggest is worked out once for the entries of a list, and stays the same."""

import numpy as np

from bridge_core import FlatState, plan_conversion


def kinds(names):
    state = FlatState({name: np.zeros((4, 4), "f4") for name in names}, layout="torch")
    steps = plan_conversion(state, to="flax", accept_guesses=True).steps
    return {".".join(step.sources[0]): step.kind for step in steps}


def test_layers_that_differ_in_numbers_get_the_guess_that_each_would_get_by_itself():
    names = [
        f"{path}.weight"
        for number in (0, 3, 12)
        for path in (f"layers.{number}.fc", f"embeddings.{number}", f"{number}.embed_tokens", f"{number}.x")
    ]
    together = kinds(names)
    assert together == {name: kind for name in names for name, kind in kinds([name]).items()}
    assert set(together.values()) == {"embedding", "linear"}

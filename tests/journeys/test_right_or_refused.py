"""Random models by random routes: what comes out is right, or the conversion is refused by name.

A draw that fails is printed with its seed, as few layers as keep the fault, and what became of them. To run
it again:

    RIGHT_OR_REFUSED_SEED=1234 pytest tests/journeys/test_right_or_refused.py -k "not many" -n 0

`RIGHT_OR_REFUSED_DRAWS` and `RIGHT_OR_REFUSED_OUTPUTS` say how many draws there are; `.ci/nightly` sets them.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from support.random_routes import draw
from support.random_sequences import draw_sequence
from support.random_verdict import run, shrunk

import bridge_core
import bridge_flax
import bridge_torch

DRAWS = int(os.environ.get("RIGHT_OR_REFUSED_DRAWS", "300"))
OUTPUTS = int(os.environ.get("RIGHT_OR_REFUSED_OUTPUTS", "10"))
SEED = os.environ.get("RIGHT_OR_REFUSED_SEED")
SHOWN, CHUNK = 12, 500
"""How many faults of a test are printed in full, and how many draws a slow test makes."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import


def check(seeds):
    """Run draws, and fail with the faults of all of them."""
    counts, faults = Counter(), []
    for seed in seeds:
        drawn = draw(seed)
        outcome = run(drawn)
        counts["refused" if outcome.refused else "converted"] += 1
        if outcome.fault:
            faults.append(seed)
    print(f"{counts['converted']} converted, {counts['refused']} refused, {len(faults)} at fault")
    shown = [shrunk(draw(seed)) for seed in faults[:SHOWN]]
    text = "\n\n".join(f"{drawn}\n  => {outcome.fault}" for drawn, outcome in shown)
    assert not faults, f"{len(faults)} of {counts.total()} draws are at fault ({faults[:100]}):\n\n{text}"
    if counts.total() >= 30:
        assert counts["converted"] >= 0.5 * counts.total(), "a generator that is only refused shows nothing"
        assert counts["refused"] >= 0.05 * counts.total(), "a generator that is never refused shows little"


def test_random_models_are_right_or_refused():
    check(range(30) if SEED is None else [int(SEED)])


@pytest.mark.slow
@pytest.mark.parametrize("start", range(30, 30 + DRAWS, CHUNK))
def test_many_random_models_are_right_or_refused(start):
    check(range(start, min(start + CHUNK, 30 + DRAWS)))


def test_the_verdict_finds_what_is_wrong(monkeypatch):
    """A bridge that leaves every kernel as torch has it, or that gives raw errors, is found out."""
    whole = bridge_core.convert

    def unturned(source, target, **options):
        if options.get("to") != "flax":
            return whole(source, target, **options)
        report = whole(source, target, **options)
        tree = msgpack_restore(target.read_bytes())
        target.write_bytes(msgpack_serialize(_turned(tree)))
        return report

    seeds = [s for s in range(60) if not draw(s).step and draw(s).layout == "torch" and draw(s).to == "flax"]
    fine = [seed for seed in seeds if not run(draw(seed)).refused]
    monkeypatch.setattr(bridge_core, "convert", unturned)
    found = [seed for seed in fine if "SILENT" in run(draw(seed)).fault]
    assert len(found) > len(fine) / 3 > 0
    monkeypatch.setattr(bridge_core, "convert", lambda *_, **__: [][1])
    assert {run(draw(seed)).fault.split()[0] for seed in seeds} == {"RAW"}


def _turned(part):
    """Return a tree with its square matrices turned round."""
    if isinstance(part, dict):
        return {name: _turned(below) for name, below in part.items()}
    return part.T if part.ndim == 2 and len(set(part.shape)) == 1 else part


def compare_outputs(seed):
    sequence = draw_sequence(np.random.default_rng(seed))
    template = bridge_flax.template(sequence.flax, sequence.inputs)
    live = bridge_torch.to_neutral(sequence.torch)
    bare = bridge_torch.to_neutral(sequence.torch.state_dict())
    expected = sequence.torch_outputs()
    for state, options in ((live, {}), (live, {"like": template}), (bare, {"like": template})):
        tree = bridge_flax.from_neutral(state, **options)
        found = sequence.flax_outputs(tree)
        message = f"sequence {seed}: {', '.join(sequence.kinds)}, {list(options)}"
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4, err_msg=message)
        back = bridge_torch.from_neutral(bridge_flax.to_neutral(tree, module=template), like=sequence.torch)
        for name, value in sequence.torch.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert np.array_equal(back[name].numpy(), value.numpy()), f"{message}: {name}"


@pytest.mark.slow
def test_outputs_of_both_models_are_equal():
    for seed in range(OUTPUTS):
        compare_outputs(seed)

"""Every op of the core has words, and the words are those of what the op does."""

import inspect

import numpy as np
import pytest

import bridge_core.ops as ops
from bridge_core.plan.op_words import _WORDS, chain_words, op_words
from bridge_core.state import TensorSpec

SPEC = TensorSpec((4, 3), np.dtype("float32"))


def test_every_op_has_words():
    known = {
        value
        for name in ops.__all__
        if inspect.isclass(value := getattr(ops, name)) and issubclass(value, ops.Op)
    }
    assert known - {ops.Op} == set(_WORDS)


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (ops.Permute((1, 0)), "swaps the two axes"),
        (ops.Permute((2, 0, 1)), "puts the axes in the order [2, 0, 1]"),
        (ops.Split(0, (2, 2)), "splits axis 0 into parts of 2, 2"),
        (ops.Unpad(0, 10, 7), "cuts axis 0 from 10 to 7; the rest must be 0"),
        (ops.Fill(0.0, SPEC), "makes a tensor float32[4, 3] of 0.0"),
        (ops.Parallel(((ops.Permute((1, 0)),),) * 3), "swaps the two axes, each of 3"),
        (ops.Parallel(((), (ops.Flip((0,)),))), "side by side: leaves it unchanged, reverses axis 0"),
        (ops.Reorder(tuple(range(20))), "puts the tensors in the order 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"),
    ],
)
def test_words(op, words):
    assert op_words(op) == words


def test_what_is_lost_is_said():
    assert "may round" in op_words(ops.Cast("float32", "float16"))
    assert op_words(ops.Cast("float16", "float32")) == "casts float16 to float32"


def test_a_chain_gives_the_tensors_after_each_op():
    lines, specs = chain_words((SPEC, SPEC), (ops.Concat(0, (4, 4)), ops.Permute((1, 0))))
    assert lines == (
        "joins 2 tensors along axis 0 → float32[8, 3]",
        "swaps the two axes → float32[3, 8]",
    )
    assert [spec.shape for spec in specs] == [(3, 8)]

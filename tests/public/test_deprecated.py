"""Arguments and fields under their old names work, and warn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bridge_core import (
    Guidance,
    LayerKind,
    LayerTransform,
    Leaf,
    StateMetadata,
    Step,
    TensorSpec,
    save_state,
)
from bridge_core.public import renamed
from bridge_core.state import LayerInfo

SPEC = TensorSpec((), np.dtype("int64"))


@pytest.mark.parametrize(
    ("make", "old", "new", "value"),
    [
        (lambda **k: Leaf("w", "w", "a", **k), "absorbs", "added_leaves", ("b",)),
        (
            lambda **k: LayerTransform("t.x", "x", (Leaf("w", "w", "a"),), **k),
            "certain_with",
            "identifying_leaves",
            ("w",),
        ),
        (
            lambda **k: LayerTransform("t.x", "x", (Leaf("w", "w", "a"),), **k),
            "exclusive",
            "only_leaves",
            True,
        ),
        (
            lambda **k: LayerTransform("t.x", "x", (Leaf("w", "w", "a"),), **k),
            "free",
            "independent_axes",
            ("a",),
        ),
        (
            lambda **k: LayerTransform("t.x", "x", (Leaf("w", "w", "a"),), **k),
            "same",
            "equal_axes",
            (("a", "b"),),
        ),
        (
            lambda **k: LayerTransform("t.x", "x", (Leaf("w", "w", "a"),), **k),
            "factors",
            "axis_splits",
            {"a": "n"},
        ),
        (lambda **k: LayerTransform("t.x", "x", (Leaf("w", "w", "a"),), **k), "refused", "unsupported", "no"),
        (
            lambda **k: LayerTransform("t.x", "x", (Leaf("w", "w", "a"),), **k),
            "lacks",
            "unsupported_leaves",
            {"b": "no"},
        ),
        (lambda **k: LayerKind("x", {"n": ""}, **k), "residuals", "auxiliary_tensors", {"n": SPEC}),
        (lambda **k: LayerInfo("x", "rule", (), **k), "forms", "transforms", {"t": "t.x"}),
        (lambda **k: LayerInfo("x", "rule", (), **k), "factors", "axis_splits", {"a": (1, 2)}),
        (StateMetadata, "residuals", "auxiliary_tensors", {("a",): 3}),
        (StateMetadata, "forms", "tree_form", {"flax": "params"}),
        (lambda **k: Step((), (("a",),), **k), "residual", "auxiliary", ("a",)),
        (lambda **k: Guidance(**k), "stem", "base_name", "unet"),
        (lambda **k: Guidance(**k), "beside", "sidecar_files", ("a.json",)),
        (lambda **k: Guidance(**k), "untied", "duplicate_tied", True),
        (lambda **k: Guidance(sidecar_files=("a",), **k), "changed", "sidecar_contents", {"a": b""}),
    ],
)
def test_an_old_name_gives_what_the_new_one_does(make, old, new, value):
    with pytest.warns(DeprecationWarning, match=rf"\b{old}=.*\b{new}="):
        made = make(**{old: value})
    assert made == make(**{new: value})
    with pytest.warns(DeprecationWarning, match=rf"\.{old}\b.*\b{new}\b"):
        assert getattr(made, old) == value


def test_a_copy_may_be_changed_under_an_old_name():
    with pytest.warns(DeprecationWarning, match=r"\bforms\b.*\btree_form\b"):
        changed = StateMetadata().with_(forms={"flax": "nnx"})
    assert changed.tree_form == {"flax": "nnx"}
    with pytest.warns(DeprecationWarning, match=r"\bforms\b.*\btree_form\b"):
        assert dataclasses.replace(StateMetadata(), forms={"flax": "nnx"}) == changed


def test_functions_take_old_names(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"\bsave_state\(stem=.*\bbase_name="):
        saved = save_state(
            {"a": np.ones(1, np.float32)}, f"{tmp_path}/made/", format="safetensors", stem="unet"
        )
    assert [path.name for path in saved.files] == ["unet.safetensors"]


def test_what_is_unknown_is_refused_as_ever():
    @renamed(old="new")
    def call(new):
        return new

    assert call(new=3) == 3
    with pytest.raises(TypeError, match="other"):
        call(other=3)

"""A program against the public interface, as a user types it. mypy reads it strictly; nothing runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import (
    BridgeError,
    FlatState,
    Key,
    LayerKind,
    LayerTransform,
    Leaf,
    Plan,
    Progress,
    Registry,
    Report,
    Rule,
    Step,
    TensorSpec,
    hookimpl,
)
from bridge_core.io import Location
from bridge_core.ops.shape import Permute
from bridge_core.state.tensors import Array


def read(path: Path) -> dict[str, tuple[int, ...]]:
    """Read shapes and one value."""
    with bridge_core.open_state(path, format="safetensors", layout="torch") as state:
        first: Key = next(iter(state))
        value: Array = state[first]
        part: Array = state.read(first, (slice(None), 0))
        spec: TensorSpec = state.spec(first)
        assert value.dtype == spec.dtype == part.dtype
        return {".".join(key): spec.shape for key, spec in state.specs().items()}


def write(state: FlatState, path: str) -> None:
    """Write a state, sharded."""
    saved = bridge_core.save_state(state, path, format=None, max_shard_size="5GB", overwrite=True)
    files: tuple[Location, ...] = saved.files
    assert files


def plan(source: Any) -> Plan:
    """Plan with every option."""
    found: Plan = bridge_core.plan_conversion(
        source,
        to="flax",
        like=None,
        model="package.module:factory",
        rules=[Rule.rename("module.**", "**"), Rule.layer("wte", "embedding")],
        accept_guesses=False,
        allow_missing=True,
        allow_unexpected=["head.**"],
    )
    steps: tuple[Step, ...] = found.steps
    document: dict[str, Any] = found.to_json()
    assert found.ok or document or steps
    return found.inverse().then(found)


def convert(source: str | Path, target: Path) -> Report:
    """Convert with progress."""

    def progress(step: Progress) -> None:
        done: int = step.done
        assert done >= 0

    try:
        return bridge_core.convert(
            source, target, to="neutral", dtype="bfloat16", workers=2, max_ram=1 << 29, progress=progress
        )
    except BridgeError as err:
        code: int = err.exit_code
        raise SystemExit(code) from err


def live(module: Any, variables: Any) -> Mapping[str, Any]:
    """Live objects, both ways."""
    neutral: FlatState = bridge_torch.to_neutral(module, module=None, rules=(), accept_guesses=False)
    template: bridge_flax.Template = bridge_flax.template(module, 1, rngs=None)
    tree: Any = bridge_flax.from_neutral(neutral, like=template, allow_missing=False, allow_unexpected=())
    back: FlatState = bridge_flax.to_neutral(variables, module=template)
    state_dict: Mapping[str, Any] = bridge_torch.from_neutral(back, like=module)
    assert tree is not None
    return state_dict


class Plugin:
    """A plugin of layers."""

    @hookimpl
    def bridge_layer_kinds(self) -> list[LayerKind]:
        """Return one kind."""
        return [LayerKind("bilinear", {"kernel": "in1 in2 out"})]

    @hookimpl
    def bridge_layer_transforms(self) -> list[LayerTransform]:
        """Return one transform."""
        leaf = Leaf("weight", "kernel", "out in1 in2", optional=False)
        return [LayerTransform("torch.bilinear", kind="bilinear", leaves=(leaf,))]


REGISTRY: Registry = bridge_core.default_registry().extend(Plugin())
OP: Permute = Permute((1, 0)).inverse()

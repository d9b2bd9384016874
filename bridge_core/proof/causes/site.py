"""Site: the place where two models first differ, with everything that was seen there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bridge_core.plugins import Inputs
from bridge_core.state import Array, Key

__all__ = ["ModuleView", "Site"]


@dataclass(frozen=True, eq=False)
class ModuleView:
    """One call of a module on one side, with its weights and the calls inside it.

    Args:
        path: The module's path.
        type: Qualified name of its class.
        framework: Name of the framework.
        inputs: The arrays it was called with, named as in `bridge_core.plugins.ModuleCall`.
        outputs: The arrays it returned.
        plain: Its plain arguments.
        settings: Its settings, under the names of `bridge_core.plugins.ModuleSettings`; empty if unknown.
        weights: Every weight below it: path and leaf name relative to it -> value in the framework's axes.
        kind: Name of its layer kind, if it is a layer that the plan knows.
        neutral: Of such a layer: leaf name -> value in neutral axes, e.g. ``{"kernel": (in, out)}``.
        children: The calls directly inside it, in order.
        channels: Where the framework's feature maps have their channels.
    """

    path: Key
    type: str
    framework: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    plain: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[Key, Array] = field(default_factory=dict)
    kind: str | None = None
    neutral: Mapping[str, Array] = field(default_factory=dict)
    children: tuple[ModuleView, ...] = ()
    channels: Literal["first", "last"] | None = None


@dataclass(frozen=True, eq=False)
class Site:
    """A pair of modules whose inputs are equal and whose outputs are not, and where inside they part.

    Args:
        source: The source's module.
        target: The target's module.
        pairs: Children that belong together: (place in ``source.children``, place in ``target.children``).
        at: The first of ``pairs`` whose inputs differ: the mistake is in what is computed between the
            module's input, the children before, and this child's input. None if no child's inputs differ:
            the mistake is in the module's own output, or, without pairs, inside the layer.
        control: Relative error that is rounding: what computing in another precision and order changes.
        source_inputs: What the source model was called with (token ids, masks, positions).
        target_inputs: The same of the target model.
    """

    source: ModuleView
    target: ModuleView
    pairs: tuple[tuple[int, int], ...] = ()
    at: int | None = None
    control: float = 1e-6
    source_inputs: Inputs = field(default_factory=Inputs)
    target_inputs: Inputs = field(default_factory=Inputs)

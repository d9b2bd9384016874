"""What was asked of a plan towards a framework, and what rules order in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge_core.layers import LayerTransform
from bridge_core.plan import Step, shown_names
from bridge_core.plugins import Framework, Registry
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.written_names import Spellings, names_of_tensor, own_name
from bridge_core.rules import Permissions
from bridge_core.state import FlatState, Key

if TYPE_CHECKING:
    from bridge_core.resolve.rule_instance import BoundRule
    from bridge_core.rules import Rule

__all__ = ["Ordered", "Request"]


@dataclass(frozen=True)
class Ordered:
    """What rules order, whatever the layers are.

    Args:
        state: The neutral state with everything that rules take.
        bound_rules: Instances of rules that rearrange tensors.
        fills: Target, without a collection -> the step that fills it with a constant.
        absent: Targets, without a collection, that may stay unfilled.
    """

    state: FlatState
    bound_rules: tuple[BoundRule, ...] = ()
    fills: Mapping[Key, Step] = field(default_factory=dict)
    absent: tuple[Key, ...] = ()

    @property
    def targets(self) -> frozenset[Key]:
        """The targets that rules account for, without collections."""
        moved = (key for bound in self.bound_rules for key in bound.targets)
        return frozenset((*moved, *self.fills, *self.absent))


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Args:
        state: The neutral state.
        registry: Kinds, transforms and adapters.
        framework: The target's adapter.
        layers: The state's layers by path.
        permissions: What may be guessed and left out.
        origin: Neutral key -> source key of the conversion that the plan is the second step of.
        rules: Rules that fix kinds.
        ordered: What rules order; the state above is without what they take.
        spellings: Gives the names that a user may write for a source key.
    """

    state: FlatState
    registry: Registry
    framework: Framework
    layers: Mapping[Key, NeutralLayer]
    permissions: Permissions
    origin: Mapping[Key, Key]
    rules: tuple[Rule, ...]
    ordered: Ordered
    spellings: Spellings = own_name

    def names_of(self, key: Key) -> tuple[Key, ...]:
        """Return the names of a neutral tensor that patterns see: its own, and those of its sources."""
        return names_of_tensor(key, self.origin, self.ordered.state.metadata, self.spellings)

    def shown(self, key: Key) -> str:
        """Return the name that a message gives a neutral tensor: that of its source comes first."""
        return shown_names(self.origin, self.ordered.state.metadata.source_names)(key)

    @property
    def transforms(self) -> tuple[LayerTransform, ...]:
        """The target framework's transforms."""
        return self.registry.checked_transforms_of.get(self.framework.name, ())

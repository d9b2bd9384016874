"""What an adapter may offer for live arrays: the primitives in which plans are compiled."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from bridge_core.errors import UnsupportedFeature
from bridge_core.messages import listed
from bridge_core.ops import ArrayOps
from bridge_core.plugins.registry import Registry, given_registry

__all__ = ["ComputesPlans", "array_ops_of"]


@runtime_checkable
class ComputesPlans(Protocol):
    """A framework adapter in whose arrays plans can be computed."""

    def array_ops(self) -> ArrayOps:
        """Return the primitives that ops are written in.

        Raises:
            MissingDependency: The framework's package is not installed.
        """
        ...


def array_ops_of(framework: str, registry: Registry | None = None) -> ArrayOps:
    """Return the primitives of a framework.

    Args:
        framework: Its name.
        registry: The plugins; None for those installed.

    Raises:
        UsageError: No plugin provides the framework.
        UnsupportedFeature: Its adapter has no primitives.
        MissingDependency: Its package is not installed.
    """
    plugins = given_registry(registry)
    adapter = plugins.framework(framework)
    if not isinstance(adapter, ComputesPlans):
        able = [name for name, other in plugins.frameworks.items() if isinstance(other, ComputesPlans)]
        raise UnsupportedFeature(
            f"the adapter of {framework} does not compute plans on live arrays.",
            hint=f"Pass one of those that do: {listed(able)}." if able else None,
        )
    return adapter.array_ops()

"""Packages that load the module of a name when the name is first used (PEP 562)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["exports", "public_name"]


def public_name(place: str) -> Any:
    """Return a public name of a package, imported when this is called.

    It is for a convenience of a lower floor that needs a higher one, so that no module imports upwards.

    Args:
        place: ``"package:name"``.

    >>> public_name("math:tau")
    6.283185307179586
    """
    package, _, name = place.partition(":")
    return getattr(import_module(package), name)


def exports(
    package: str, homes: Mapping[str, str], *, packages: str = "", moved: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: Name of the package.
        homes: Module -> the names that it provides, separated by spaces. A module is relative to the package
            unless it has a dot.
        packages: Names of packages inside it, separated by spaces, that are imported when they are asked for.
        moved: Deprecated name -> ``"package:name"`` of what it means now. Using one warns.
    """
    home_of = {name: module for module, names in homes.items() for name in names.split()}
    inner = frozenset(packages.split())
    namespace = sys.modules[package].__dict__

    def load(name: str) -> Any:
        module = home_of.get(name)
        if module is not None:
            loaded = import_module(module if "." in module else f"{package}.{module}")
            value = namespace[name] = getattr(loaded, name)
            return value
        if name in inner:
            return import_module(f"{package}.{name}")
        if moved and name in moved:
            from bridge_core.errors import DeprecatedName  # importing the package loads no errors

            module, _, new = moved[name].partition(":")
            warnings.warn(
                f"{package}.{name} is deprecated; use {module}.{new}.", DeprecatedName, stacklevel=2
            )
            return getattr(import_module(module), new)
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}", name=name, obj=import_module(package)
        )

    return load, lambda: sorted({*namespace, *home_of, *inner}), sorted(home_of, key=str.lower)

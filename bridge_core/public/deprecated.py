"""Fields and arguments under their old names: they still work, and warn."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["gathered", "renamed"]

T = TypeVar("T", bound=Callable[..., Any])


def renamed(**names: str) -> Callable[[T], T]:
    """Return a decorator with which old names of arguments and attributes still work.

    Args:
        **names: Old name -> new name. Using an old one warns with `DeprecatedName`.

    >>> @renamed(heads="collections")
    ... def count(collections): return len(collections)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     count(heads=[1, 2])
    2
    """

    def decorate(target: T) -> T:
        if not isinstance(target, type):
            return cast("T", _accepting(target, target.__qualname__, names))
        target.__init__ = _accepting(target.__init__, target.__qualname__, names)  # type: ignore[misc]
        for old, new in names.items():
            reader = _reader(old, new, target.__qualname__)
            setattr(target, old, property(reader, doc=f"Deprecated name of ``{new}``."))
        return target

    return decorate


def gathered(name: str, group: type) -> Callable[[T], T]:
    """Return a decorator of a dataclass whose arguments were gathered in one value.

    Fields of that value are still accepted as arguments, with a warning.

    The decorator goes inside `renamed`.

    Args:
        name: The field that holds the value.
        group: Its class, a dataclass. Using one of its fields as an argument warns with `DeprecatedName`.
    """
    fields = [field.name for field in dataclasses.fields(group)]

    def decorate(target: T) -> T:
        changed: Any = target
        constructor = changed.__init__

        @functools.wraps(constructor)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            old = {field: kwargs.pop(field) for field in fields if field in kwargs}
            if old:
                names = "=, ".join(old)
                # One level more than usual: `renamed` wraps the constructor once again.
                _warn(f"{target.__qualname__}({names}=)", f"{name}={group.__qualname__}(...)", stacklevel=4)
                kwargs[name] = dataclasses.replace(kwargs.get(name) or group(), **old)
            constructor(self, *args, **kwargs)

        changed.__init__ = init
        return target

    return decorate


def _accepting(function: Any, name: str, names: dict[str, str]) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not names.keys().isdisjoint(kwargs):
            for old in kwargs.keys() & names.keys():
                _warn(f"{name}({old}=)", f"{names[old]}=")
                kwargs[names[old]] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call


def _reader(old: str, new: str, name: str) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        _warn(f"{name}.{old}", new)
        return getattr(self, new)

    return read


def _warn(old: str, new: str, *, stacklevel: int = 3) -> None:
    from bridge_core.errors import DeprecatedName

    warnings.warn(f"{old} is deprecated; use {new}.", DeprecatedName, stacklevel=stacklevel)

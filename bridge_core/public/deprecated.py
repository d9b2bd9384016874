"""Fields and arguments under their old names: they still work, and warn."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["renamed"]

T = TypeVar("T", bound=Callable[..., Any])


def renamed(**names: str) -> Callable[[T], T]:
    """Return a decorator that keeps old names of arguments and, on a class, of attributes.

    Args:
        **names: Old name -> new name. Using an old one raises a `DeprecationWarning`.

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
            setattr(target, old, property(reader, doc=f"Deprecated name of `{new}`."))
        return target

    return decorate


def _accepting(function: Any, name: str, names: dict[str, str]) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs.keys() & names.keys():
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


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated; use {new}.", DeprecationWarning, stacklevel=3)

"""The types of arguments of public functions."""

from __future__ import annotations

__all__ = ["require_bool"]


def require_bool(argument: str, value: object) -> None:
    """Refuse a text such as ``"no"``, which counts as true, where True or False is expected.

    Args:
        argument: The name of the argument; its option has the same name.
        value: The value; 0, 1 and numpy's booleans are accepted.

    Raises:
        UsageError: The value is neither.
    """
    if isinstance(value, bool) or value in (True, False):
        return
    from bridge_core.errors import UsageError

    raise UsageError(f"expected {argument}= to be True or False, got {repr(value)[:80]}.")

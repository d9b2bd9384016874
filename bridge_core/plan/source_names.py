"""Names of a neutral state's tensors in messages: first the name in the object or file it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge_core.state import Key, join_key

if TYPE_CHECKING:
    from bridge_core.errors import BridgeError
    from bridge_core.plan.plan import Plan

__all__ = ["named_by_source", "name_with_source", "shown_names"]


def name_with_source(key: Key, source_names: Mapping[Key, Key]) -> str:
    """Return the name that a message gives a tensor of a neutral state.

    Args:
        key: The neutral key.
        source_names: Neutral key -> key in what the state was made from, as far as that is known.

    >>> name_with_source(("fc", "kernel"), {("fc", "kernel"): ("fc", "weight")})
    'fc.weight (neutral fc.kernel)'
    >>> name_with_source(("fc", "kernel"), {})
    'fc.kernel'
    """
    name, source = join_key(key), source_names.get(key, key)
    return name if source == key else f"{join_key(source)} (neutral {name})"


def shown_names(origin: Mapping[Key, Key], source_names: Mapping[Key, Key]) -> Callable[[Key], str]:
    """Return the function that gives the name which a message shows for a neutral key.

    Args:
        origin: Neutral key -> source key of the conversion that the plan is the second step of.
        source_names: Neutral key -> key in what the neutral state was made from.
    """

    def shown(key: Key) -> str:
        given = origin.get(key)
        if given is not None and source_names.get(key, given) == given:
            return join_key(given)
        return name_with_source(key, source_names)

    return shown


def named_by_source(error: BridgeError, plan: Plan) -> BridgeError:
    """Return the error of a plan from a neutral state with the source's names in its message.

    Its attributes, and the patterns in its hint, remain those of the neutral keys. Where no source is known,
    the message shows that the names are of the neutral form.

    Args:
        error: The error of the plan's problems; its message is replaced.
        plan: The plan. Its problems name keys of the target, too, which remain.
    """
    problems, source, source_names = plan.problems, plan.specs, plan.source_names
    keys = {
        *problems.unexpected,
        *(mismatch.source for mismatch in problems.mismatched),
        *problems.ambiguous,
        *problems.unsupported,
        *problems.unexplained,
    }
    keys = {key for key in keys if key in source}
    if not keys:
        return error
    known = keys & source_names.keys()

    def named(key: Key) -> Key:
        if key not in source:
            return key
        name = name_with_source(key, source_names)
        return (f"{name} (a neutral name)" if known and key not in source_names else name,)

    shown = replace(
        problems,
        unexpected=tuple(map(named, problems.unexpected)),
        mismatched=tuple(replace(m, source=named(m.source)) for m in problems.mismatched),
        ambiguous={named(key): kinds for key, kinds in problems.ambiguous.items()},
        unsupported={named(key): why for key, why in problems.unsupported.items()},
        unexplained={named(key): why for key, why in problems.unexplained.items()},
        causes=tuple(replace(cause, keys=tuple(map(named, cause.keys))) for cause in problems.causes),
    ).error(plan.target_layout, {named(key): spec for key, spec in source.items()})
    if shown is None:
        return error
    message = shown.message
    if not known:
        separator = "\n" if "\n" in message else " "
        message = f"{message}{separator}The names of the source's tensors are those of the neutral form."
    error.message, error.args = message, (message,)
    return error

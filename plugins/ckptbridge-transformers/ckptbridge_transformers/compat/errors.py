"""Errors that callers of the old functions catch, and that are the bridge's own at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bridge_core import BadInputError, LossyCastError, MismatchError, SystemFailure

__all__ = ["as_before", "LossyLoad", "UnreadableWeights", "WrongWeights"]


class WrongWeights(MismatchError, ValueError):
    """The weights are not the model's: names or shapes differ."""


class LossyLoad(LossyCastError, ValueError):
    """The model's parameters are narrower than the weights, so that values would change."""


class UnreadableWeights(BadInputError, OSError):
    """A file is not there, damaged, unsafe, or of no known format; the cause says which."""


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Raise the bridge's errors as those that callers of the old functions expect.

    Raises:
        WrongWeights: For a `MismatchError`.
        UnreadableWeights: For a `BadInputError` or a `SystemFailure`.
    """
    try:
        yield
    except (WrongWeights, UnreadableWeights):
        raise
    except MismatchError as err:
        raise WrongWeights(
            err.message,
            missing=err.missing,
            unexpected=err.unexpected,
            mismatched=err.mismatched,
            hint=err.hint,
        ) from err
    except (BadInputError, SystemFailure) as err:
        raise UnreadableWeights(
            err.message, path=err.path, key=err.key, plugin=err.plugin, hint=err.hint
        ) from err

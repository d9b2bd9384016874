"""Errors of ckptbridge that are also the built-in errors that callers of the old functions catch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bridge_core import BadInputError, LossyCastError, MismatchError, SourceNotFound, SystemFailure

__all__ = ["as_before", "LossyLoad", "UnreadableWeights", "WrongWeights"]


class WrongWeights(MismatchError, ValueError):
    """The weights do not match the model: names or shapes differ."""


class LossyLoad(LossyCastError, ValueError):
    """The dtypes of the model's parameters cannot hold the values of the weights exactly."""


class UnreadableWeights(BadInputError, OSError):
    """A file is missing, damaged, unsafe or of an unknown format.

    ``__cause__`` is the specific error.
    """


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Raise the errors of ckptbridge as those that callers of the old functions expect.

    Raises:
        WrongWeights: For a `MismatchError`.
        UnreadableWeights: For a `SourceNotFound`, a `BadInputError` or a `SystemFailure`.
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
    except (BadInputError, SourceNotFound, SystemFailure) as err:
        unreadable = UnreadableWeights(
            err.message, path=err.path, key=err.key, plugin=err.plugin, hint=err.hint
        )
        if isinstance(err, OSError):
            unreadable.errno = err.errno
        raise unreadable from err

"""Makes the model that ``--model PKG.MOD:FACTORY`` names, by running the user's own code."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge_core.errors import UsageError
from bridge_core.messages import nearest
from bridge_core.plugins import cause_of, is_interrupt

__all__ = ["load_factory"]

_RETURN = "Correct the function; it is called without arguments and should return a model."


def load_factory(name: str) -> Any:
    """Import and call ``PKG.MOD:FACTORY``; a model of that name is returned uncalled.

    Args:
        name: ``"package.module:function"``; the module is found in the current folder, too.

    Raises:
        UsageError: The name has another form or cannot be imported, or its function fails or returns None.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(
            f'expected "package.module:function" as model= (--model), got {name!r}.',
            hint='Write, for example, model="mynet:make_model" (--model mynet:make_model).',
        )
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        factory: Any = _imported(name, module_name, here)
        for part in attribute.split("."):
            if not hasattr(factory, part):
                raise UsageError(
                    f"{_shown(name)}: the module {module_name} has no {attribute!r}.",
                    hint=nearest(part, (known for known in dir(factory) if not known.startswith("_"))),
                )
            factory = getattr(factory, part)
        if not callable(factory) or _is_module(factory):
            return factory
        with _failures_named(name, "the function failed with", _RETURN):
            model = factory()
        if model is None:
            raise UsageError(f"{_shown(name)}: the function returned None.", hint=_RETURN)
        return model
    finally:
        if added:
            sys.path.remove(here)


def _imported(name: str, module_name: str, here: str) -> Any:
    hint = "Correct the module, or install what it imports."
    with _failures_named(name, f"importing {module_name} failed with", hint):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as err:
            if not f"{module_name}.".startswith(f"{err.name}."):
                raise
            plain = module_name.removesuffix(".py").replace("/", ".")
            new = f"{plain}:{name.partition(':')[2]}"
            raise UsageError(
                f"{_shown(name)}: there is no module {err.name!r} in {here} or on Python's path.",
                hint="Check the name."
                if plain == module_name
                else f'Write the module without folders and suffix: model="{new}" (--model {new}).',
            ) from err


def _shown(name: str) -> str:
    return f'model="{name}" (--model {name})'


@contextlib.contextmanager
def _failures_named(name: str, what: str, hint: str) -> Iterator[None]:
    """Turn what the user's own code raises, which may also end the program, into an error that names it."""
    try:
        yield
    except UsageError:
        raise
    except BaseException as err:
        if is_interrupt(err):
            raise
        raise UsageError(f"{_shown(name)}: {what} {cause_of(err).rstrip('.')}.", hint=hint) from err


def _is_module(value: Any) -> bool:
    """Return whether a callable is a model already: neither a function nor a class."""
    return not isinstance(value, type) and not hasattr(value, "__code__") and not hasattr(value, "__func__")

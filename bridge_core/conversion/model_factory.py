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

_RETURN = "Correct the function; it is called without arguments and should return {}."


def load_factory(name: str, argument: str = "model", returned: str = "a model") -> Any:
    """Import and call ``PKG.MOD:FACTORY``; a model of that name is returned uncalled.

    Args:
        name: ``"package.module:function"``; the module is found in the current folder, too.
        argument: The argument that it is the value of, for messages; the option has the same name.
        returned: What the function should return, for messages.

    Raises:
        UsageError: The name has another form or cannot be imported, or its function fails or returns None.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(
            f'expected "package.module:function" as {argument}= ({_option(argument)}), got {name!r}.',
            hint=f"Write, for example, {_shown('mynet:make_model', argument)}.",
        )
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        factory: Any = _imported(name, module_name, here, argument)
        for part in attribute.split("."):
            if not hasattr(factory, part):
                raise UsageError(
                    f"{_shown(name, argument)}: the module {module_name} has no {attribute!r}.",
                    hint=nearest(part, (known for known in dir(factory) if not known.startswith("_"))),
                )
            factory = getattr(factory, part)
        if not callable(factory) or _is_module(factory):
            return factory
        with _failures_named(_shown(name, argument), "the function failed with", _RETURN.format(returned)):
            model = factory()
        if model is None:
            raise UsageError(
                f"{_shown(name, argument)}: the function returned None.", hint=_RETURN.format(returned)
            )
        return model
    finally:
        if added:
            sys.path.remove(here)


def _imported(name: str, module_name: str, here: str, argument: str) -> Any:
    hint = "Correct the module, or install what it imports."
    with _failures_named(_shown(name, argument), f"importing {module_name} failed with", hint):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as err:
            if not f"{module_name}.".startswith(f"{err.name}."):
                raise
            plain = module_name.removesuffix(".py").replace("/", ".")
            new = f"{plain}:{name.partition(':')[2]}"
            raise UsageError(
                f"{_shown(name, argument)}: there is no module {err.name!r} in {here} or on Python's path.",
                hint="Check the name."
                if plain == module_name
                else f"Write the module without folders and suffix: {_shown(new, argument)}.",
            ) from err


def _shown(name: str, argument: str) -> str:
    return f'{argument}="{name}" ({_option(argument)} {name})'


def _option(argument: str) -> str:
    return f"--{argument.replace('_', '-')}"


@contextlib.contextmanager
def _failures_named(shown: str, what: str, hint: str) -> Iterator[None]:
    """Turn what the user's own code raises, which may also end the program, into an error that names it."""
    try:
        yield
    except UsageError:
        raise
    except BaseException as err:
        if is_interrupt(err):
            raise
        raise UsageError(f"{shown}: {what} {cause_of(err).rstrip('.')}.", hint=hint) from err


def _is_module(value: Any) -> bool:
    """Return whether a callable is a model already: neither a function nor a class."""
    return not isinstance(value, type) and not hasattr(value, "__code__") and not hasattr(value, "__func__")

"""Docstrings of public names: a short first line, and ``Args`` that are those of the signature."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest

import bridge_core

ROOMS = [
    f"bridge_core.{module.name}" for module in pkgutil.iter_modules(bridge_core.__path__) if module.ispkg
]
PACKAGES = ["bridge_core", "bridge_core.errors", *ROOMS, "bridge_torch", "bridge_flax"]
OF_ERRORS = {"message", "more"}
"""Arguments that every error has; `BridgeError` describes them."""


def documented(doc):
    """Return the names in the ``Args`` of a docstring; None if it has no such section."""
    section = re.search(r"^Args:\n((?: +.*\n|\n)*)", f"{inspect.cleandoc(doc)}\n", re.MULTILINE)
    if section is None:
        return None
    names = re.findall(r"^    ([*\w][*\w, ]*):", section[1], re.MULTILINE)
    return {name.strip(" *") for text in names for name in text.split(",")}


def parameters(value):
    """Return the names of what a function or class takes; None for a class that inherits it."""
    if inspect.isclass(value):
        if dataclasses.is_dataclass(value):
            return {field.name for field in dataclasses.fields(value) if field.init}
        if hasattr(value, "_fields"):
            return set(value._fields)
        if "__init__" not in vars(value) or getattr(value, "_is_protocol", False):
            return None
    return set(inspect.signature(inspect.unwrap(value)).parameters) - {"self", "cls"}


def public_docstrings(package):
    """Yield (name, value, docstring) of a package's names and of their methods."""
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        yield name, value, vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        for method, member in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if not method.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{method}", function, function.__doc__


def faults(name, value, doc):
    """Return what is wrong with a docstring."""
    if not doc:
        return []
    first = doc.splitlines()[0]
    wrong = [f"{name}: {len(first)} characters"] if len(first) > 88 else []
    names, taken = documented(doc), parameters(value)
    if names is not None and taken is not None:
        taken -= {parameter for parameter in taken if parameter.startswith("_")}
        if inspect.isclass(value) and issubclass(value, bridge_core.BridgeError):
            taken -= OF_ERRORS - names
        wrong += [f"{name}: {parameter}" for parameter in sorted(names ^ taken)]
    return wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_args_are_those_of_the_signature(package):
    assert [fault for entry in public_docstrings(package) for fault in faults(*entry)] == []


def test_a_wrong_section_is_found():
    def function(one, two):
        """Return it.

        Args:
            one: The first.
            three: There is none.
        """

    assert faults("f", function, function.__doc__) == ["f: three", "f: two"]
    assert faults("f", function, "x" * 89) == ["f: 89 characters"]

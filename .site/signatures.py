"""Signatures of functions and classes, as blocks of code."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["class_line", "fenced", "signature"]

WIDTH = 100


def fenced(language: str, text: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def class_line(found: Any, name: str) -> str:
    """Return how a class is made, or whose subclass it is."""
    bases = [str(base) for base in found.bases if str(base) not in ("Protocol", "object")]
    if any(str(decorator.value).startswith("dataclass") for decorator in found.decorators):
        fields = [
            member
            for member in found.members.values()
            if member.is_attribute
            and "instance-attribute" in member.labels
            and member.annotation
            and not member.name.startswith("_")
            and "property" not in member.labels
        ]
        items = [
            f"{field.name}: {field.annotation}" + (f" = {default(field)}" if field.value is not None else "")
            for field in fields
        ]
        return wrapped(f"class {name}", items, "")
    if "__init__" in found.members and found.members["__init__"].is_function:
        return f"class {signature(found.members['__init__'], name, returns=False)}"
    return f"class {name}({', '.join(bases)})" if bases else f"class {name}"


def default(field: Any) -> str:
    """Return the default of a dataclass's field as a reader writes it; ``...`` for a private value."""
    text = str(field.value)
    made = re.match(r"field\(default_factory=(\w+)", text)
    if made:
        return {"dict": "{}", "list": "[]"}.get(made[1], f"{made[1]}()")
    return "..." if text.startswith("_") else text


def signature(found: Any, name: str, *, returns: bool = True) -> str:
    """Return a function's signature, one argument a line where one line is too short."""
    items, keyword_only = [], False
    for parameter in found.parameters:
        if parameter.name in ("self", "cls") and not items:
            continue
        kind = parameter.kind.value
        if kind == "keyword-only" and not keyword_only and not any(item.startswith("*") for item in items):
            items.append("*")
        keyword_only = kind == "keyword-only"
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        item = stars + parameter.name
        if parameter.annotation is not None:
            item += f": {parameter.annotation}"
        if parameter.default is not None and not stars:
            item += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        items.append(item)
    back = f" -> {found.returns}" if returns and found.returns is not None else ""
    return wrapped(name, items, back)


def wrapped(name: str, items: list[str], back: str) -> str:
    """Return a call in one line, or with a line for each argument."""
    line = f"{name}({', '.join(items)}){back}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {item},\n" for item in items) + f"){back}"

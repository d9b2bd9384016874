"""What the declarations of formats of files and of folders have in common."""

from __future__ import annotations

from typing import Any

from bridge_core.formats import Capabilities
from bridge_core.state import DTYPES

__all__ = ["check_declarations"]


def check_declarations(format: Any) -> None:
    """Check the name, the extensions, the layout and the capabilities of a format."""
    assert isinstance(format.name, str), f"name is {format.name!r}; expected a text."
    assert format.name, "name is empty."
    assert isinstance(format.extensions, tuple), (
        f"extensions is {format.extensions!r}; expected a tuple of suffixes, as ('.raw',)."
    )
    wrong = [
        text for text in format.extensions if not (isinstance(text, str) and text[:1] == "." and text[1:])
    ]
    assert not wrong, f"extensions has {wrong}; expected suffixes that begin with a dot."
    assert format.layout is None or isinstance(format.layout, str), f"layout is {format.layout!r}."
    declared = format.capabilities
    assert isinstance(declared, Capabilities), f"capabilities is {declared!r}; expected Capabilities(...)."
    unknown = sorted(set(declared.dtypes) - set(DTYPES))
    assert not unknown, f"capabilities.dtypes has {unknown}, which the bridge does not have."
    assert declared.dtypes, "capabilities.dtypes is empty: name the dtypes that are stored bit for bit."

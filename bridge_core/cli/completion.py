"""What a shell completes: files, layouts, recipes, formats, dtypes and plugins; plugins print nothing here.

Each function is a ``shell_complete`` of click. A plugin's module is imported, a framework never.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, shell_complete

if TYPE_CHECKING:
    from bridge_core.plugins import Registry

__all__ = [
    "VARIABLE",
    "a_dtype_at_the_end",
    "a_file",
    "a_format",
    "a_layout",
    "a_plugin",
    "a_recipe",
    "answer_shell",
]

VARIABLE = "_CKPTBRIDGE_COMPLETE"
"""The variable by which a shell asks for its script, or for the words at the cursor."""

Items = list[CompletionItem]


def answer_shell(group: click.Command, instruction: str) -> int:
    """Print what the shell asked for; return the exit code.

    Args:
        group: The command whose words are completed.
        instruction: The value of the variable, such as ``bash_source`` or ``bash_complete``.
    """
    return shell_complete(group, {}, "ckptbridge", VARIABLE, instruction)


def a_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Let the shell complete paths."""
    return [CompletionItem(incomplete, type="file")]


def _from_registry(names: Callable[[Registry], Iterable[tuple[str, str]]]) -> Callable[..., Items]:
    """Make a completion of names, each with a line of help."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
        items: Items = []
        with contextlib.suppress(Exception), _silence():  # a plugin that fails completes nothing
            items = [
                CompletionItem(name, help=line)
                for name, line in names(_registry(context))
                if name.startswith(incomplete)
            ]
        return items

    return complete


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Show no warning, and nothing that a plugin prints: it would be read as an answer, or spoil the line."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _registry(context: click.Context) -> Registry:
    """Return the registry without the plugins that the line disables; no module that it names is imported."""
    from bridge_core.plugins import default_registry, loaded_registry

    levels = (context, context.find_root())
    disabled = [name for level in levels for name in level.params.get("disabled_plugins") or ()]
    return loaded_registry(disabled=disabled, added=()) if disabled else default_registry()


@_from_registry
def a_layout(registry: Registry) -> Iterator[tuple[str, str]]:
    """Complete the layouts: those of frameworks, and the neutral one."""
    yield from ((name, f"as {name} stores weights") for name in registry.frameworks)
    yield "neutral", "ckptbridge's own names and axes"


@_from_registry
def a_format(registry: Registry) -> Iterator[tuple[str, str]]:
    """Complete the formats of files and of folders."""
    yield from ((name, " ".join(value.extensions)) for name, value in registry.formats.items())
    yield from ((name, "folders") for name in registry.folder_formats)


@_from_registry
def a_recipe(registry: Registry) -> Iterator[tuple[str, str]]:
    """Complete the recipes."""
    yield from ((name, recipe.title) for name, recipe in registry.recipes.items())


@_from_registry
def a_plugin(registry: Registry) -> Iterator[tuple[str, str]]:
    """Complete the plugins that can be disabled: all but ckptbridge's own."""
    own = registry.plugins[0].distribution
    others = [plugin for plugin in registry.plugins if plugin.distribution != own]
    yield from ((plugin.name, plugin.distribution) for plugin in others)


def a_dtype_at_the_end(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Complete a floating-point dtype, or one after ``PATTERN=``."""
    from bridge_core.state import DTYPES, is_floating

    pattern, sign, begun = incomplete.rpartition("=")
    names = [name for name, dtype in DTYPES.items() if is_floating(dtype) and name.startswith(begun)]
    return [CompletionItem(f"{pattern}{sign}{name}") for name in names]

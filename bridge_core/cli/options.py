"""Options that several commands share, with checks that come before anything is opened."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge_core.cli.terminal import aside
from bridge_core.errors import BridgeError, PluginWarning

if TYPE_CHECKING:
    from bridge_core.plugins import Registry

__all__ = [
    "a_floating_dtype",
    "a_pattern",
    "a_size",
    "dtype_option",
    "entry_option",
    "evidence_options",
    "examples",
    "json_option",
    "layout_option",
    "links_option",
    "plugin_options",
    "rules_option",
    "takes_quiet_registry",
    "takes_registry",
    "target_options",
    "verbose_option",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def a_size(text: str) -> int:
    """Read bytes, or a text such as ``5GB``."""
    from bridge_core.transfer import parse_size

    return _read(parse_size, text)


def a_pattern(text: str) -> str:
    """Check a pattern over keys."""
    from bridge_core.rules import Pattern

    _read(Pattern.parse, text)
    return text


def a_floating_dtype(text: str) -> str:
    """Check the name of a floating-point dtype."""
    from bridge_core.state import DTYPES, is_floating

    known = [name for name, dtype in DTYPES.items() if is_floating(dtype)]
    if text not in known:
        raise click.BadParameter(f"{text!r} is no floating-point dtype. Known are: {', '.join(known)}.")
    return text


def _read(reader: Callable[[str], T], text: str) -> T:
    try:
        return reader(text)
    except BridgeError as err:
        raise click.BadParameter(str(err)) from err


def examples(*lines: str) -> str:
    """Return the epilog that shows examples, their lines unchanged."""
    return "\b\n" + "\n".join(("Examples:", *(f"  {line}" for line in lines)))


def _stacked(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and nothing else there."
)
layout_option = click.option(
    "--layout",
    metavar="LAYOUT",
    help="Whose names and axes the source has (torch, flax, neutral), where the file does not tell.",
)
links_option = click.option(
    "--follow-links",
    is_flag=True,
    help="Let shards and copied files be symbolic links that lead out of their folder.",
)
entry_option = click.option(
    "--entry",
    metavar="PATH",
    help="The entry of SRC to read, e.g. model_ema or ckpt.model_ema, in place of the usual one.",
)
rules_option = click.option(
    "--rules",
    type=click.Path(),
    metavar="FILE",
    callback=lambda _context, _option, value: () if value is None else value,
    help="A TOML file of rules; see 'ckptbridge rules check --help'.",
)
dtype_option = click.option(
    "--dtype",
    type=a_floating_dtype,
    metavar="DTYPE",
    help="Cast floating-point tensors, e.g. to bfloat16; may lose precision.",
)

verbose_option = click.option(
    "-v", "--verbose", count=True, help="Show on stderr what happens: each stage; -vv shows more."
)
plugin_options = _stacked(
    click.option(
        "--plugin",
        "plugin_modules",
        multiple=True,
        metavar="PKG.MOD",
        help="Import a module of the current folder, or of Python's path, as a plugin; repeatable. Runs it.",
    ),
    click.option(
        "--disable-plugin",
        "disabled_plugins",
        multiple=True,
        metavar="NAME",
        help=(
            "Do without an installed plugin: its name, its module or its distribution, or 'all' for all but "
            "ckptbridge's own; repeatable. As CKPTBRIDGE_DISABLE_PLUGINS, a list with commas, does."
        ),
    ),
)
"""Which plugins there are; they stand before the command's name, or after it."""


def takes_registry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of plugins; its ``registry`` is that of them, or None without options."""
    return _with_registry(function, ignored=())


def takes_quiet_registry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Do as `takes_registry`, without warnings of plugins that fail, for a command that lists them."""
    return _with_registry(function, ignored=(PluginWarning,))


def _with_registry(function: Callable[..., Any], *, ignored: tuple[type[Warning], ...]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(
        *args: Any,
        plugin_modules: tuple[str, ...],
        disabled_plugins: tuple[str, ...],
        verbose: int,
        **options: Any,
    ) -> Any:
        context = click.get_current_context()
        root = context.find_root()
        verbose = max(verbose, root.params.get("verbose", 0))
        if verbose or "bridge_core.cli.verbosity" in sys.modules:
            from bridge_core.cli.verbosity import show_log

            show_log(verbose)
        if root is not context:
            plugin_modules = (*root.params.get("plugin_modules", ()), *plugin_modules)
            disabled_plugins = (*root.params.get("disabled_plugins", ()), *disabled_plugins)
        with aside(), warnings.catch_warnings():  # a plugin may print while it is imported
            for category in ignored:
                warnings.simplefilter("ignore", category)
            registry = _registry(plugin_modules, disabled_plugins)
        return function(*args, registry=registry, **options)

    return plugin_options(verbose_option(call))


def _registry(added: tuple[str, ...], disabled: tuple[str, ...]) -> Registry | None:
    if not (added or disabled):
        return None
    from bridge_core.plugins import loaded_registry

    return loaded_registry(disabled=disabled, added=added)


evidence_options = _stacked(
    rules_option,
    click.option(
        "--model",
        metavar="PKG.MOD:FACTORY|CLASS|auto|none",
        help=(
            "Import and call PKG.MOD:FACTORY; the live module's types are evidence. Runs that code. Or the "
            "name of a class of the checkpoint's model library, if its adapter is installed; 'auto' is the "
            "one that the folder names, and the default where SRC is a folder, or its weights and not clear "
            "by themselves; 'none' does without."
        ),
    ),
    click.option(
        "--accept-guesses", is_flag=True, help="Let names decide what a layer is, where nothing else does."
    ),
    *(
        click.option(name, type=a_pattern, multiple=True, metavar="PATTERN", help=f"{text}; repeatable.")
        for name, text in (
            ("--allow-missing", "Target tensors that may stay unfilled, e.g. 'head.*' or '**'"),
            ("--allow-unexpected", "Source tensors that may be left out"),
            (
                "--allow-mismatched",
                "Target tensors that may stay unfilled if their shapes differ from the source's",
            ),
            (
                "--allow-unclaimed",
                "Source tensors with a layer's name that no evidence explains, to be copied unchanged, e.g. "
                "'mixer.gate_weight'",
            ),
        )
    ),
    layout_option,
    links_option,
    entry_option,
)
"""What bears on reading the source; the parameters are named as in `bridge_core.plan_conversion`."""

target_options = _stacked(
    click.option("--to", required=True, metavar="torch|flax|neutral", help="The layout to convert to."),
    click.option(
        "--like",
        metavar="PATH",
        help="Weights of the target's architecture; their names and shapes are the template.",
    ),
    evidence_options,
)
"""What decides a plan."""

"""Options that several commands share; their values are checked before a file is opened."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge_core.cli import completion
from bridge_core.cli.terminal import aside
from bridge_core.errors import BridgeError, PluginWarning, UsageError

if TYPE_CHECKING:
    from bridge_core.plugins import Registry

__all__ = [
    "a_cast",
    "a_floating_dtype",
    "a_pattern",
    "a_size",
    "an_only",
    "dtype_option",
    "entry_option",
    "evidence_options",
    "examples",
    "json_option",
    "layout_option",
    "links_option",
    "plugin_options",
    "rules_option",
    "sizes_option",
    "step_option",
    "takes_quiet_registry",
    "takes_registry",
    "target_options",
    "verbose_option",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def a_size(text: str) -> int:
    """Return the bytes that a number, or a text such as ``5GB``, means."""
    from bridge_core.transfer import parse_size

    return _read(parse_size, text)


def a_pattern(text: str) -> str:
    """Return a pattern of keys, if it is well formed."""
    from bridge_core.rules import Pattern

    _read(Pattern.parse, text)
    return text


def a_floating_dtype(text: str) -> str:
    """Return the name of a floating-point dtype, if it is one."""
    from bridge_core.messages import nearest
    from bridge_core.state import DTYPES, is_floating

    known = [name for name, dtype in DTYPES.items() if is_floating(dtype)]
    if text not in known:
        raise click.BadParameter(f"expected a floating-point dtype, got {text!r}. {nearest(text, known)}")
    return text


def a_cast(text: str) -> tuple[str, str]:
    """Return the pattern and the dtype of ``PATTERN=DTYPE``; the pattern ``**`` if no pattern is given."""
    pattern, sign, name = text.rpartition("=")
    return a_pattern(pattern) if sign else "**", a_floating_dtype(name)


def an_only(text: str) -> str:
    """Return a pattern with or without a number, if it is well formed."""
    from bridge_core.conversion import as_only

    _read(as_only, text)
    return text


def _dtypes(_context: object, _option: object, given: tuple[tuple[str, str], ...]) -> Any:
    """Return the dtype, or the dtypes by patterns with the last at the end; None if none is given."""
    dtypes: dict[str, str] = {}
    for pattern, name in given:
        dtypes.pop(pattern, None)
        dtypes[pattern] = name
    return dtypes["**"] if list(dtypes) == ["**"] else dtypes or None


def _read(reader: Callable[[str], T], text: str) -> T:
    try:
        return reader(text)
    except BridgeError as err:
        from bridge_core.messages import for_command_line

        raise click.BadParameter(for_command_line(f"{err.statement} {err.hint or ''}".strip())) from err


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
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and no other text there."
)
layout_option = click.option(
    "--layout",
    metavar="LAYOUT",
    shell_complete=completion.a_layout,
    help="Layout of SRC: torch, flax or neutral. Needed where the file does not record it and its names do "
    "not show it.",
)
links_option = click.option(
    "--follow-links",
    is_flag=True,
    help="Follow symbolic links of shards and copied files that lead out of their folder.",
)
entry_option = click.option(
    "--entry",
    metavar="PATH",
    help="Entry of SRC to read, e.g. model_ema, ckpt.model_ema, or an item of an Orbax checkpoint, in place "
    "of the usual one.",
)
step_option = click.option(
    "--step",
    type=click.IntRange(min=0),
    metavar="N",
    help="Step of SRC to read, where it has steps; by default the latest that is complete.",
)


def _a_setting(text: str) -> tuple[str, str]:
    """Return the name and the value of a size, ``heads=8``."""
    name, _, value = (part.strip() for part in text.partition("="))
    if not (name and value):
        raise click.BadParameter(f"expected NAME=VALUE, such as heads=8, got {text!r}.")
    return name, value


sizes_option = click.option(
    "--set",
    "sizes",
    type=_a_setting,
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a size in [sizes] of the rule file or the recipe, e.g. heads=8, depths=3,4,6,3 or "
    "heads=config.n_head; repeatable.",
)


def rules_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``rules``, the path of a rule file or its rules with sizes, and ``recipe``.

    Sizes that are set are those of the recipe, if one is given.
    """

    @functools.wraps(function)
    def call(
        *args: Any,
        rules: Any,
        recipe: Any,
        sizes: tuple[tuple[str, str], ...],
        **options: Any,
    ) -> Any:
        if sizes and rules is None and recipe in (None, "none"):
            raise UsageError(
                "--set gives a value to a size of a rule file or a recipe, but none is given.",
                hint="Pass --rules FILE or --recipe NAME, or remove --set.",
            )
        if sizes and recipe is not None:
            recipe = (recipe, dict(sizes))
        elif sizes:
            from bridge_core.rules import load_rules

            rules = load_rules(rules, sizes=dict(sizes))
        return function(*args, rules=() if rules is None else rules, recipe=recipe, **options)

    file_option = click.option(
        "--rules",
        type=click.Path(),
        metavar="FILE",
        help="A TOML file of rules; see 'ckptbridge rules check --help'.",
    )
    recipe_option = click.option(
        "--recipe",
        metavar="NAME",
        shell_complete=completion.a_recipe,
        help="An installed recipe, the rules for a family of models; 'ckptbridge recipes' lists them. 'none' "
        "converts by names and shapes where one is needed.",
    )
    return file_option(recipe_option(sizes_option(call)))


dtype_option = click.option(
    "--dtype",
    type=a_cast,
    multiple=True,
    callback=_dtypes,
    metavar="[PATTERN=]DTYPE",
    shell_complete=completion.a_dtype_at_the_end,
    help="Cast floating-point tensors to DTYPE, e.g. bfloat16; the cast may lose precision. With PATTERN "
    "only target tensors of these names, e.g. 'img.**=float32'; the last that matches decides. Repeatable.",
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
        help="Import a module of the current folder, or of Python's path, as a plugin; this runs its code. "
        "Repeatable.",
    ),
    click.option(
        "--disable-plugin",
        "disabled_plugins",
        multiple=True,
        metavar="NAME",
        shell_complete=completion.a_plugin,
        help=(
            "Leave out an installed plugin, by its name, module or distribution; 'all' leaves out all but "
            "ckptbridge's own. Repeatable. The variable CKPTBRIDGE_DISABLE_PLUGINS, a list with commas, does "
            "the same."
        ),
    ),
)
"""Options that add and leave out plugins; they may come before or after the command's name."""


def takes_registry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of plugins, as its ``registry``; None if no such option is given."""
    return _with_registry(function, ignored=())


def takes_quiet_registry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its ``registry``, without warnings of plugins that fail, since it lists them."""
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
        if verbose:
            from bridge_core.cli.verbosity import show_log

            context.call_on_close(show_log(verbose))
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


only_option = click.option(
    "--only",
    type=an_only,
    multiple=True,
    metavar="PATTERN[=N]",
    help="Convert only these source tensors, e.g. model.layers.0 or '**.norm.*'; the others are not read. "
    "PATTERN=N takes the first N entries of a list, e.g. model.layers=2, or the first N rows of tensors, "
    "e.g. model.embed_tokens.weight=1000, and leaves out the rest of these. Repeatable.",
)

evidence_options = _stacked(
    rules_option,
    click.option(
        "--model",
        metavar="PKG.MOD:FACTORY|CLASS|auto|none",
        help=(
            "Import PKG.MOD and call FACTORY, a function that returns the model; its module types are "
            "evidence. This runs that code. Or the name of a class of the checkpoint's model library, if its "
            "adapter is installed: 'auto' is the class that the folder's config names, which is the default "
            "for a folder, and for a file that is not clear by its names; 'none' uses no library."
        ),
    ),
    click.option(
        "--accept-guesses",
        is_flag=True,
        help="Let names decide what a layer is, where no evidence does. A guess may be wrong.",
    ),
    *(
        click.option(name, type=a_pattern, multiple=True, metavar="PATTERN", help=f"{text}; repeatable.")
        for name, text in (
            ("--allow-missing", "Target tensors that may stay unfilled, e.g. 'head.*' or '**'"),
            ("--allow-unexpected", "Source tensors that may be left out"),
            (
                "--allow-mismatched",
                "Target tensors that may stay unfilled if the source's shapes differ",
            ),
            (
                "--allow-unclaimed",
                "Source tensors with a layer's name that no evidence explains, to copy unchanged, e.g. "
                "'mixer.gate_weight'",
            ),
        )
    ),
    click.option(
        "--allow-inexact",
        is_flag=True,
        help="Let rules round, and discard what is not a constant; the report names what is lost.",
    ),
    only_option,
    layout_option,
    links_option,
    entry_option,
    step_option,
)
"""Options about the source; the parameters have the names of those of `bridge_core.plan_conversion`."""

target_options = _stacked(
    click.option(
        "--to",
        required=True,
        metavar="torch|flax|neutral",
        shell_complete=completion.a_layout,
        help="Layout to convert to.",
    ),
    click.option(
        "--like",
        metavar="PATH",
        shell_complete=completion.a_file,
        help="Weights of the target's model; their names and shapes are the template.",
    ),
    evidence_options,
)
"""Options that decide a plan."""

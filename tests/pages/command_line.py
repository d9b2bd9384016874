"""Makes docs/command-line.md from the commands, their options and their examples."""

from __future__ import annotations

import importlib
import inspect
import re

import click

from bridge_core.cli import main
from bridge_core.cli.options import plugin_options, verbose_option

__all__ = ["commands", "examples_of", "page"]

HEAD = """# Command line

Every command, option and example of `ckptbridge`, made from the command itself; `ckptbridge COMMAND --help` prints the
same. Python has the same names: `--accept-guesses` is `accept_guesses=True` of `bridge_core.convert`
([reference](https://ckptbridge.github.io/ckptbridge/reference/bridge_core.html#convert)).

Results go to stdout, and everything else to stderr. `--json` prints one document, which a schema in
[schemas](schemas) describes, also for a refusal.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | refused: a mismatch, an ambiguity, a difference |
| 2 | usage |
| 3 | bad or unsafe input |
| 4 | the system failed |
| 130 | interrupted |

[Every error](errors.md) has a code of its own, too. `ckptbridge --version` prints the version.

## Options of every command

"""


def commands():
    """Return (words, command) of each command, and of those below it."""
    context = click.Context(main, info_name="ckptbridge")
    for name in main.list_commands(context):
        module = importlib.import_module(f"bridge_core.cli.commands.{name}")
        yield from _with_inner(f"ckptbridge {name}", getattr(module, name))


def _with_inner(words, command):
    yield words, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _with_inner(f"{words} {name}", inner)


def page():
    """Return the page."""
    shared = shared_options()
    parts = [
        HEAD,
        *(item(option) for option in shared.values()),
        "- `-h`, `--help`: Show the help, and exit.\n",
    ]
    parts += ["\n## Commands\n\n"]
    parts += [f"- [`{words}`](#{words.replace(' ', '-')}): {summary(one)}\n" for words, one in commands()]
    for words, command in commands():
        parts.append(f"\n## {words}\n\n{usage(words, command)}\n\n{prose(command.help)}\n")
        if isinstance(command, click.Group):
            inner = ", ".join(
                f"[`{words} {name}`](#{words.replace(' ', '-')}-{name})" for name in command.commands
            )
            parts.append(f"\nIts commands: {inner}.\n")
        options = [one for one in command.params if isinstance(one, click.Option) and one.name not in shared]
        if options:
            parts += ["\n**Options**\n\n", *map(item, options)]
        if lines := examples_of(command):
            parts.append("\n**Examples**\n\n```sh\n" + "".join(f"{line}\n" for line in lines) + "```\n")
    return "".join(parts)


def shared_options():
    """Return the options that every command takes, by name."""

    @plugin_options
    @verbose_option
    def any_command():
        pass

    return {one.name: one for one in reversed(any_command.__click_params__)}


def examples_of(command):
    """Return the command lines in the epilog of a command."""
    return re.findall(r"^ +(ckptbridge .*)$", command.epilog or "", re.MULTILINE)


def usage(words, command):
    """Return how a command is called; click's own line is another one in each version."""
    pieces = ["[OPTIONS]"]
    for one in command.params:
        if isinstance(one, click.Argument):
            name = one.metavar or one.name.upper()
            pieces.append(name if one.required else f"[{name}]")
    if isinstance(command, click.Group):
        pieces += ["[COMMAND]" if command.invoke_without_command else "COMMAND", "[ARGS]..."]
    return f"```text\n{' '.join((words, *pieces))}\n```"


def summary(command):
    """Return the first sentence of a command's help."""
    return prose(command.help.split("\n\n")[0])


def item(option):
    """Return an entry of a list about an option."""
    names = [f"`{name}`" for name in (*option.opts, *option.secondary_opts)]
    if not option.is_flag and not option.count:
        names[-1] = f"`{option.opts[-1]} {metavar(option)}`"
    required = " (required)" if option.required else ""
    return f"- {', '.join(names)}{required}: {prose(option.help)}\n"


def metavar(option):
    """Return what an option takes; `make_metavar` has another signature in each version of click."""
    if isinstance(option.type, click.Choice):
        return option.metavar or f"[{'|'.join(map(str, option.type.choices))}]"
    return option.metavar or option.type.name.upper()


def prose(text):
    """Return a text of click as Markdown: options, and what is in quotes, as code.

    >>> prose("See 'ckptbridge recipes' and --only, e.g. head.*.")
    'See `ckptbridge recipes` and `--only`, e.g. head.\\\\*.'
    """
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\b\n", ""))
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text):
    parts = re.split(r"(?<!\w)('[^'\n]+'|--[a-z][\w-]*)(?!\w)", " ".join(text.split()))
    shown = (
        f"`{part.strip(chr(39))}`" if n % 2 else re.sub(r"([*<\[])", r"\\\1", part)
        for n, part in enumerate(parts)
    )
    return "".join(shown)

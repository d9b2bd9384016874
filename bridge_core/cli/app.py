"""The group of commands, and the one place where errors become messages and exit codes.

0 done; 1 refused; 2 usage; 3 bad or unsafe input; 4 the system failed; 130 interrupted. Commands return
their exit code or raise; everything they need from the core is imported when they run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import click

from bridge_core.cli.completion import VARIABLE, answer_shell
from bridge_core.cli.options import plugin_options, verbose_option
from bridge_core.cli.terminal import complain, documents_printed, finish_output, print_json
from bridge_core.errors import BridgeError, RuleError, SystemFailure, UsageError

__all__ = ["App", "main"]

_USAGE, _SYSTEM, _INTERRUPTED = 2, 4, 130

_COMMANDS = {
    "inspect": "Show what is in a file, from its header only.",
    "plan": "Show what a conversion would do.",
    "convert": "Convert, and verify what was written.",
    "work": "Convert in parts, in several processes or on several machines.",
    "verify": "Check that a file holds another's weights, through the plan.",
    "match": "Propose the rules between two models, from names and shapes.",
    "diff": "Compare names, shapes, dtypes and values of two files.",
    "prove": "Run two models on the same weights, and find where their outputs part.",
    "explain": "Show what happens to one tensor, and why.",
    "rules": "Check a rule file.",
    "recipes": "List the recipes for families of models, or show one.",
    "plugins": "List what is installed, and what failed to load.",
}
"""Command -> its line in the list; the module of the command has the same name."""


class _OnFirstUse(click.Command):
    """A command whose module is imported when it is run, or its own help is asked for."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of the command itself."""
        module = importlib.import_module(f"bridge_core.cli.commands.{self.name}")
        command: click.Command = getattr(module, str(self.name))
        return command.make_context(info_name, args, parent, **extra)


class App(click.Group):
    """A group that lists its commands as they were added, and answers every error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in order."""
        return list(self.commands)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and end the process with the exit code; or return it outside standalone mode."""
        if standalone_mode and (asked := os.environ.get(VARIABLE)):
            sys.exit(answer_shell(self, asked))
        with _clean_ends(), _shown_warnings():
            given = args[0] if args else extra.get("args")
            words = list(given) if given is not None else sys.argv[1:]
            code = _run(functools.partial(super().main, *args, standalone_mode=False, **extra), words)
        if standalone_mode:
            sys.exit(code)
        return code


def _run(call: Callable[[], Any], words: list[str]) -> int:
    answer = _Answer(words)
    try:
        code = call()
        finish_output()
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return answer.end(_INTERRUPTED, "CKB-130", "interrupted; nothing is left half written.", label=None)
    except click.ClickException as err:
        with contextlib.suppress(OSError):
            err.show()
        only_help = isinstance(err, click.exceptions.NoArgsIsHelpError)  # its message is the help
        text = "Missing command." if only_help else err.format_message()
        answer.document({"code": UsageError.code, "message": text})
        return _USAGE
    except BridgeError as err:
        return answer.refusal(err)
    except SystemExit as err:  # of code that ckptbridge ran, such as a user's model: it decides no exit code
        text = f"code that was run tried to end the program with sys.exit({err.code!r})."
        return answer.end(_SYSTEM, SystemFailure.code, text)
    except MemoryError:
        return answer.end(_SYSTEM, SystemFailure.code, "there is not enough memory.")
    except OSError as err:
        where = f"{err.filename}: " if err.filename is not None else ""
        return answer.end(_SYSTEM, SystemFailure.code, f"{where}{err.strerror or err}.", path=err.filename)
    except Exception as err:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        text = f"{type(err).__name__}: {err}. This is a mistake in ckptbridge or in a plugin."
        return answer.end(_SYSTEM, "CKB-499", text, hint="Please report it with the text above.")
    finally:
        with contextlib.suppress(OSError):
            finish_output()


def _shown_word(word: str) -> str:
    """Return a word of the command to repeat: a URL without its credentials.

    >>> _shown_word("https://user:secret@host/w.npz"), _shown_word("--like=s3://bucket/w.npz?key=secret")
    ('https://host/w.npz', '--like=s3://bucket/w.npz')
    """
    from bridge_core.io import scheme_of, shown_url

    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{shown_url(value) if scheme_of(value) else value}"


class _Answer:
    """What a command that failed prints: text on stderr and, under ``--json``, a document on stdout."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._before = documents_printed()

    def refusal(self, err: BridgeError) -> int:
        """Print an error of ours; return its exit code."""
        from bridge_core.messages import for_command_line

        document = err.to_json(["ckptbridge", *map(_shown_word, self._words)])
        has_lines = bool(err.options) or isinstance(err, RuleError) or "proposed_rules" in document
        complain(for_command_line(str(err)), label="error", as_list=has_lines)
        if document["next"]:
            lines = "\n".join(f"  {shlex.join(command)}" for command in document["next"])
            complain(f"Most likely to go on:\n{lines}", as_list=True)
        if document["hint"]:
            document["hint"] = for_command_line(document["hint"])
        document["message"] = for_command_line(document["message"])
        self.document(document)
        return err.exit_code

    def end(
        self,
        status: int,
        code: str,
        text: str,
        *,
        label: str | None = "error",
        path: Any = None,
        hint: str = "",
    ) -> int:
        """Print another end; return ``status``."""
        sentences = [text, hint] if hint else [text]
        complain(" ".join([*sentences, f"[{code}]"]) if label else text.rstrip("."), label=label)
        self.document({"code": code, "message": text, "path": path and str(path), "hint": hint or None})
        return status

    def document(self, fields: dict[str, Any]) -> None:
        """Print the error as JSON where that was asked for, and no other document was printed."""
        if "--json" in self._words and documents_printed() == self._before:
            with contextlib.suppress(OSError):
                print_json(
                    {"code": "", "message": "", "keys": [], "path": None, "hint": None, "next": [], **fields}
                )


@contextlib.contextmanager
def _clean_ends() -> Iterator[None]:
    """Let a batch system's SIGTERM, and a closed terminal, clean up as Ctrl-C does."""
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # no system has all of them
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _shown_warnings() -> Iterator[None]:
    """Show warnings that are meant for users as one line each, and each once."""
    seen: set[str] = set()

    def show(message: Warning | str, *_args: Any, **_more: Any) -> None:
        text = str(message)
        if text not in seen:
            seen.add(text)
            complain(text, label="warning")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield


@click.group(
    cls=App,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Run 'ckptbridge COMMAND --help' for a command's options and examples.",
)
@click.version_option(package_name="ckptbridge", prog_name="ckptbridge", message="%(prog)s %(version)s")
@plugin_options
@verbose_option
def main(**_options: object) -> None:
    """Move model weights between PyTorch and Flax/JAX, exactly.

    Exit codes: 0 done; 1 refused (a mismatch, an ambiguity, a difference); 2 usage; 3 bad or unsafe input;
    4 the system failed; 130 interrupted.
    """


for _name, _line in _COMMANDS.items():
    main.add_command(_OnFirstUse(_name, short_help=_line))

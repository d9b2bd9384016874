"""The group of commands, and the one place where errors become messages and exit codes.

0 done; 1 refused; 2 usage; 3 bad or unsafe input; 4 the system failed; 130 interrupted. Commands return
their exit code or raise; everything they need from the core is imported when they run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
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

from bridge_core.cli.options import plugin_options
from bridge_core.cli.terminal import complain, finish_output
from bridge_core.errors import BridgeError

__all__ = ["App", "main"]

_USAGE, _SYSTEM, _INTERRUPTED = 2, 4, 130

_COMMANDS = {
    "inspect": "Show what stands in a file, from its header alone.",
    "plan": "Show what a conversion would do.",
    "convert": "Convert, and verify what was written.",
    "verify": "Tell whether a file holds another's weights, through the plan.",
    "diff": "Compare names, shapes, dtypes and values as they are.",
    "explain": "Show what happens to one tensor, and why.",
    "rules": "Check a rule file.",
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
        with _clean_ends(), _shown_warnings():
            given = args[0] if args else extra.get("args")
            words = list(given) if given is not None else sys.argv[1:]
            code = _run(functools.partial(super().main, *args, standalone_mode=False, **extra), words)
        if standalone_mode:
            sys.exit(code)
        return code


def _run(call: Callable[[], Any], words: list[str]) -> int:
    try:
        code = call()
        finish_output()
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted; nothing is left half written")
        return _INTERRUPTED
    except click.ClickException as err:
        with contextlib.suppress(OSError):
            err.show()
        return _USAGE
    except BridgeError as err:
        complain(str(err), label="error", as_list=bool(err.options))
        ways = [option for option in err.options if option.split()[0] not in words]
        if ways:
            command = shlex.join(["ckptbridge", *words])
            lines = "\n".join(f"  {command} {option}" for option in ways)
            complain(f"Most likely to go on:\n{lines}", as_list=True)
        return err.exit_code
    except SystemExit as err:  # of code that ckptbridge ran, such as a user's model: it decides no exit code
        complain(f"code that was run tried to end the program with sys.exit({err.code!r}).", label="error")
        return _SYSTEM
    except MemoryError:
        complain("there is not enough memory.", label="error")
        return _SYSTEM
    except OSError as err:
        where = f"{err.filename}: " if err.filename is not None else ""
        complain(f"{where}{err.strerror or err}.", label="error")
        return _SYSTEM
    except Exception as err:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        complain(
            f"{type(err).__name__}: {err}. This is a mistake in ckptbridge or in a plugin; "
            "please report it with the text above.",
            label="error",
        )
        return _SYSTEM
    finally:
        with contextlib.suppress(OSError):
            finish_output()


@contextlib.contextmanager
def _clean_ends() -> Iterator[None]:
    """Let a batch system's SIGTERM, and a closed terminal, clean up as Ctrl-C does."""
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
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
def main(**_plugins: tuple[str, ...]) -> None:
    """Move model weights between PyTorch and Flax/JAX, exactly.

    Exit codes: 0 done; 1 refused (a mismatch, an ambiguity, a difference); 2 usage; 3 bad or unsafe input;
    4 the system failed; 130 interrupted.
    """


for _name, _line in _COMMANDS.items():
    main.add_command(_OnFirstUse(_name, short_help=_line))

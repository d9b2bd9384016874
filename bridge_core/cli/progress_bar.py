"""The progress bar: bytes, rate and remaining time, on stderr and only on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from bridge_core.cli.terminal import is_terminal
from bridge_core.messages import size_text
from bridge_core.transfer import Progress

__all__ = ["progress_bar"]


_WORDS = {"writing": "converting", "verifying": "verifying", "comparing": "comparing"}


@contextlib.contextmanager
def progress_bar(*, shown: bool = True) -> Iterator[Callable[[Progress], None] | None]:
    """Give a function to report progress to; None where no bar is shown.

    Args:
        shown: Whether the command may show a bar.
    """
    if not shown or not is_terminal(sys.stderr):
        yield None
        return
    from rich import progress as bars
    from rich.console import Console

    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=None),
        bars.TextColumn("{task.fields[amount]}"),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    task = bar.add_task("planning", total=None, amount="")
    shown_word = "planning"

    def report(state: Progress) -> None:
        nonlocal shown_word
        amount = f"{size_text(state.done)} of {size_text(state.total)}"
        word = _WORDS.get(state.phase, state.phase)
        bar.update(task, completed=state.done, total=state.total, amount=amount, description=word)
        if word != shown_word:
            shown_word = word
            bar.refresh()

    with bar:
        yield report

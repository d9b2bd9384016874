"""The progress bar: bytes, rate and remaining time, on stderr and only where a person reads it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from bridge_core.cli.report import size_text
from bridge_core.cli.terminal import is_terminal
from bridge_core.execute import Progress

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(
    what: str, *, shown: bool = True, afterwards: str | None = None
) -> Iterator[Callable[[Progress], None] | None]:
    """Give a function to report progress to; None where no bar is shown.

    Args:
        what: What is going on, in a word.
        shown: Whether a bar is wanted at all.
        afterwards: What goes on once all bytes are reported, for a time that nobody knows.
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
    task = bar.add_task(what, total=None, amount="")
    ended = False

    def report(state: Progress) -> None:
        nonlocal ended
        if ended:
            return
        amount = f"{size_text(state.done)} of {size_text(state.total)}"
        bar.update(task, completed=state.done, total=state.total, amount=amount)
        if afterwards is not None and state.done >= state.total:
            ended = True
            bar.refresh()
            bar.reset(task, total=None, description=afterwards, amount=size_text(state.total))

    with bar:
        yield report

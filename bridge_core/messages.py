"""Text for messages: fold names, list the first of many, suggest the nearest."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

__all__ = [
    "count",
    "fold_names",
    "folded",
    "for_command_line",
    "for_memory",
    "listed",
    "log",
    "nearest",
    "shown",
    "size_text",
]

_BOTH_WAYS = re.compile(r"""\b([a-z_]+)=(?:"([^"]*)"|'[^']*'|\[[^\]]*\]|[^\s"'\[(,.]*) \((--[^()]+)\)""")

_IN_BRACKETS = re.compile(r" \([a-z_]+=\)")

_FOLDED = re.compile(r"(?<![0-9])[0-9]{1,9}(?![0-9])")


def fold_names(names: Iterable[str]) -> list[tuple[str, int]]:
    """Fold names that differ only in their numbers, for reports.

    Returns:
        ``(folded name, how many it stands for)``, in order of first appearance.

    >>> fold_names(["h.0.w", "h.1.w", "h.2.w", "out"])
    [('h.{0..2}.w', 3), ('out', 1)]
    """
    groups: dict[tuple[tuple[str, ...], tuple[int, ...]], list[tuple[int, ...]]] = {}
    for name in names:
        numbers = _FOLDED.findall(name)
        padded = tuple(len(n) if n[0] == "0" and n != "0" else 0 for n in numbers)
        between = tuple(_FOLDED.split(name))
        groups.setdefault((between, padded), []).append(tuple(map(int, numbers)))
    texts_of = []
    for (between, padded), rows in groups.items():
        texts = [
            _numbers_text(sorted(set(c)), w) for c, w in zip(zip(*rows, strict=True), padded, strict=True)
        ]
        text = "".join(part for pair in zip(between, [*texts, ""], strict=True) for part in pair)
        texts_of.append((text, len(rows)))
    return texts_of


def _numbers_text(values: list[int], width: int) -> str:
    texts = [str(value).zfill(width) for value in values]
    if len(values) == 1:
        return texts[0]
    if values[-1] - values[0] == len(values) - 1:
        return f"{{{texts[0]}..{texts[-1]}}}"
    return "{" + ",".join([*texts[:6], "..."] if len(values) > 6 else texts) + "}"


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Return names folded and joined; of many only the first, and how many more there are.

    >>> listed(["h.0.w", "h.1.w", "out"])
    'h.{0..1}.w (x2), out'
    """
    texts = folded(names)
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def folded(names: Iterable[str]) -> list[str]:
    """Return names folded, each with how many it stands for."""
    return [text + (f" (x{count})" if count > 1 else "") for text, count in fold_names(names)]


def count(number: int, what: str) -> str:
    """Return a number with its noun, in the plural where that is due.

    >>> count(2, "step")
    '2 steps'
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def size_text(nbytes: int) -> str:
    """Return a number of bytes with a unit, in powers of ten as the options read them.

    >>> size_text(90868376)
    '90.9 MB'
    """
    value = float(nbytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.95:
            return f"{nbytes} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def shown(value: object, limit: int = 80) -> str:
    """Return a value of a file or a caller for a message, as its `repr`, cut after ``limit`` characters.

    >>> shown([1] * 1000, 20)
    '[1, 1, 1, 1, 1, 1...'
    """
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # very deep, or an integer with more digits than Python prints
        return "a value too large to show"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def nearest(name: str, known: Iterable[str], *, listing: str = "") -> str:
    """Return a hint about an unknown name: the nearest known one, or the first of all; case is ignored.

    Args:
        name: The unknown name.
        known: The names that would do.
        listing: What the known names are listed as, such as ``"Installed"``, in addition to the nearest one.

    >>> nearest("unpadd", ["pad", "unpad"])
    "Did you mean 'unpad'?"
    >>> nearest("jax", ["flax", "torch"], listing="Installed")
    "Did you mean 'flax'? Installed: flax, torch."
    """
    import difflib  # only errors need it

    names = list(map(str, known))
    by_case = {known_name.lower(): known_name for known_name in names}
    near = difflib.get_close_matches(str(name).lower(), by_case, n=1, cutoff=0.55)
    question = f"Did you mean {by_case[near[0]]!r}?" if near else ""
    if question and not listing:
        return question
    if not names:
        return f"{question} There is none.".strip()
    # Not folded: numbers in names of dtypes, ops and formats are not places in a row.
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{question} {listing or 'Known are'}: {', '.join(names[:8])}{more}.".strip()


def for_command_line(text: str) -> str:
    """Return a message for somebody who typed a command: an option in place of an argument of Python.

    An option without a value of its own gets a value that the argument has in double quotes. An argument in
    brackets after what it means in a file is left out.

    >>> for_command_line('Pass dtype="float32" (--dtype) or accept_guesses=True (--accept-guesses).')
    'Pass --dtype float32 or --accept-guesses.'
    >>> for_command_line('Correct the top of the rule file (layouts=).')
    'Correct the top of the rule file.'
    """
    return _IN_BRACKETS.sub("", _BOTH_WAYS.sub(_option, text))


def _option(match: re.Match[str]) -> str:
    _, value, option = match.groups()
    return f"{option} {value}" if value and " " not in option else option


_MEMORY = {"like": "like=model", "model": "module=model of to_neutral"}


def for_memory(text: str) -> str:
    """Return a message for a caller of `to_neutral` or `from_neutral`, which take live objects and no paths.

    >>> for_memory('Pass like="model.safetensors" (--like) or accept_guesses=True (--accept-guesses).')
    'Pass like=model or accept_guesses=True.'
    """
    return _BOTH_WAYS.sub(_argument, text)


def _argument(match: re.Match[str]) -> str:
    name, value, option = match.groups()
    if name in _MEMORY and value is not None:
        return _MEMORY[name]
    return match[0].removesuffix(f" ({option})")


def log(room: str, message: str, *args: object, level: int = 20) -> None:
    """Log under ``ckptbridge.<room>``.

    Importing `logging` takes longer than some commands; a program that listens has imported it.

    Args:
        room: The room that logs.
        message: A text with ``%s`` for each of ``args``, which are formatted only if somebody listens.
        args: The values, or functions that return them, which are called only then.
        level: As in `logging`: 20 is INFO, 10 is DEBUG.
    """
    logging = sys.modules.get("logging")
    logger = logging.getLogger(f"ckptbridge.{room}") if logging is not None else None
    if logger is not None and logger.isEnabledFor(level):
        values = [value() if callable(value) else value for value in args]
        logger.log(level, message, *values, stacklevel=2)

"""The refusal of rules that had to match something and did not, with the names they may have meant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from bridge_core.errors import RuleError
from bridge_core.messages import count, fold_names, listed
from bridge_core.state import Key, join_key

__all__ = ["closest_key", "unmatched_rules_error"]

_LISTED = 8
"""How many rules, and how many folded names, the message lists."""
_COMPARED = 2000
"""Names among which the closest one is looked for; a comparison takes some 20 microseconds."""

_QUOTED = re.compile(r"'([^']+)'")
_VARYING = re.compile(r"\{[^}]*\}|[0-9]+")
_OF_TARGET = (": fill with ", ": may stay missing (")
"""What follows the patterns of a rule that only has targets."""


def unmatched_rules_error(
    rules: Sequence[str],
    sources: Iterable[Key] = (),
    unexplained: Iterable[Key] = (),
    missing: Iterable[Key] = (),
) -> RuleError:
    """Return the error about rules that had to match something and did not, one line for each.

    Args:
        rules: Each rule as text, with its place in the file.
        sources: The keys that the patterns were matched against.
        unexplained: Those that no rule and no layer explains.
        missing: The target's keys that nothing fills.
    """
    old, new = _folded(sources), _folded(missing)
    rows = [_printable(f"{rule}{_closest(rule, old, new)}") for rule in rules[:_LISTED]]
    rows += [f"and {len(rules) - _LISTED} more"] * (len(rules) > _LISTED)
    rows += [
        _printable(f"{what}: {listed(names, _LISTED)}")
        for what, keys in (
            ("source tensors that no rule and no layer explains", unexplained),
            ("target tensors that nothing fills", missing),
        )
        if (names := list(map(join_key, keys)))
    ]
    between, end, before = (" ", ".", "") if len(rows) == 1 else ("\n  ", "", "\n")
    return RuleError(
        f"{count(len(rules), 'rule')} matched no key:{between}{between.join(rows)}{end}",
        hint=(
            f"{before}Correct the pattern, which is matched against the original source keys, "
            "before any rule renames them; or set optional = true in the rule if it may match nothing."
        ),
    )


def closest_key(pattern: str, keys: Iterable[Key]) -> str:
    """Return the name, folded with others, that is most like a pattern; empty if none is.

    Args:
        pattern: The pattern.
        keys: The keys that it was to match.
    """
    return _closest_name(pattern, _folded(sorted(keys)))


def _closest_name(pattern: str, names: Iterable[str]) -> str:
    """Return the folded name that is most like a pattern; empty if none is.

    Numbers and captures are alike. A pattern is also compared with the beginnings of names that have as many
    parts as it has before ``**``, and with names without their first part, which may be a collection.
    """
    import difflib  # only errors need it

    text = _VARYING.sub("0", pattern.removesuffix(".**").removesuffix(".*"))
    depth = text.count(".") + 1
    texts: dict[str, str] = {}
    for name in itertools.islice(names, _COMPARED):
        parts = _VARYING.sub("0", name).split(".")
        for start in (0, 1):
            texts.setdefault(".".join(parts[start:]), name)
            texts.setdefault(".".join(parts[start : start + depth]), name)
    found = difflib.get_close_matches(text, texts, n=1)
    return texts[found[0]] if found else ""


def _closest(rule: str, sources: Sequence[str], missing: Sequence[str]) -> str:
    """Return the names that a rule may have meant, in brackets; empty if none is like its patterns."""
    before, arrow, after = rule.partition(" -> ")
    if not arrow and any(text in rule for text in _OF_TARGET):
        before, after = "", rule
    near = []
    for what, text, names in (("source", before, sources), ("unfilled target", after, missing)):
        pattern = _QUOTED.search(text)
        name = _closest_name(pattern[1], names) if pattern is not None else ""
        near += [f"the closest {what} key is {name!r}"] * bool(name)
    return f" ({', '.join(near)})" if near else ""


def _folded(keys: Iterable[Key]) -> list[str]:
    return [text for text, _ in fold_names(map(join_key, keys))]


def _printable(text: str) -> str:
    """Return a text whose line ends are escaped, so that a name cannot add a line of its own."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()

"""Names that mean one thing: exact synonyms of modules and leaves. Likeness only orders candidates."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable

__all__ = ["likeness", "meaning", "parts_meant"]

_SYNONYMS = (
    ("query", "q", "q_proj", "to_q", "wq", "query_proj", "q_lin", "q_linear", "linear_q", "query_w", "w_q"),
    ("key", "k", "k_proj", "to_k", "wk", "key_proj", "k_lin", "k_linear", "linear_k", "key_w", "w_k"),
    ("value", "v", "v_proj", "to_v", "wv", "value_proj", "v_lin", "v_linear", "linear_v", "value_w", "w_v"),
    ("out", "o", "o_proj", "out_proj", "to_out", "wo", "out_lin", "output_proj", "attention_output"),
    ("gate", "gate_proj", "wi_0"),
    ("up", "up_proj", "wi_1"),
    ("down", "down_proj", "wo"),
    ("fc1", "linear1", "lin1", "dense1"),
    ("fc2", "linear2", "lin2", "dense2"),
    ("query_norm", "q_norm", "norm_q"),
    ("key_norm", "k_norm", "norm_k"),
    ("query_bias", "q_bias"),
    ("key_bias", "k_bias"),
    ("value_bias", "v_bias"),
    ("mean", "running_mean", "moving_mean"),
    ("var", "running_var", "moving_variance"),
    ("scale", "gamma", "weight"),
    ("bias", "beta", "offset"),
)
"""Each line is one meaning; a name in two lines has none by itself."""

_FUSED = {
    name: parts
    for names, parts in (
        ("in_proj_weight in_proj_bias qkv qkv_proj wqkv to_qkv c_attn", ("query", "key", "value")),
        ("query_key_value qkv_einsum", ("query", "key", "value")),
        ("kv kv_proj kv_einsum to_kv key_value", ("key", "value")),
        ("gate_up_proj gating_einsum", ("gate", "up")),
    )
    for name in names.split()
}
"""Names of tensors that hold several -> what they hold, in order."""

_JOINTS = re.compile(r"[._/~\-]+")


@functools.cache
def _table() -> dict[str, str]:
    table: dict[str, str] = {}
    for line in _SYNONYMS:
        for name in line:
            table[name] = "" if name in table else line[0]
    return {name: first for name, first in table.items() if first}


def meaning(name: str) -> str:
    """Return one word for all names that mean the same; the name in small letters if none is known.

    >>> meaning("q_proj"), meaning("query"), meaning("attn.to_q")
    ('query', 'query', 'attn.query')
    """
    return ".".join(_meant(part) for part in re.split(r"[./]", name) if part not in ("", "~"))


def _meant(part: str) -> str:
    lower = part.lower()
    return _table().get(lower, lower)


def parts_meant(name: str) -> tuple[str, ...]:
    """Return the meanings of what one tensor of this name holds, in order; none if it is not known.

    >>> parts_meant("qkv_proj")
    ('query', 'key', 'value')
    """
    return _FUSED.get(name.lower(), ())


def likeness(one: str, other: str) -> float:
    """Return how alike two names are, from 0 to 1; an order for people, never evidence."""
    first, second = (meaning(name) for name in (one, other))
    shared = _share(_JOINTS.split(first), _JOINTS.split(second))
    return (shared + difflib.SequenceMatcher(None, first, second).ratio()) / 2


def _share(one: Iterable[str], other: Iterable[str]) -> float:
    first, second = set(one) - {""}, set(other) - {""}
    return len(first & second) / (len(first | second) or 1)

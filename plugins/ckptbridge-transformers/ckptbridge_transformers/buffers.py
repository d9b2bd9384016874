"""Tensors of old checkpoints that a model makes by itself: masks, positions, frequencies.

Releases of transformers differ in which buffers they save. A buffer that the model computes anyway, and does
not save any more, is not a weight; it is left out with the reason, not reported as unexpected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bridge_core import FlatState, Key, Rule, as_key
from bridge_core.rules import Pattern

__all__ = ["made_by_model"]

_OF_OLD_RELEASES = {
    re.compile(r"(^|\.)position_ids$"): (1, 2),
    re.compile(r"(^|\.)rotary_emb\.inv_freq$"): (1,),
    re.compile(r"(^|\.)(attn|attention)\.bias$"): (4,),  # a mask, where a bias would have one axis
    re.compile(r"(^|\.)(attn|attention)\.masked_bias$"): (0,),
}
"""Names of buffers that old releases saved and current models do not have -> numbers of axes."""


def made_by_model(state: FlatState, model: Any) -> Iterator[Rule]:
    """Yield a rule that drops each key that a torch model makes by itself.

    Args:
        state: A checkpoint in torch's layout.
        model: A torch model of transformers; its values are not read.
    """
    saved = set(model.state_dict())
    unsaved_buffers = {name for name, _ in model.named_buffers() if name not in saved}
    ignored = [re.compile(text) for text in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for key, spec in state.specs().items():
        name = ".".join(key)
        short = name.removeprefix(prefix)
        if saved.intersection((name, short, prefix + name)):
            continue
        old = any(len(spec.shape) in ranks and n.search(name) for n, ranks in _OF_OLD_RELEASES.items())
        if old or unsaved_buffers.intersection((name, short, prefix + name)):
            yield _left_out(key, "a buffer that the model makes by itself")
        elif any(pattern.search(name) for pattern in ignored):
            yield _left_out(key, f"{type(model).__name__} of transformers ignores it")


def _left_out(key: Key, reason: str) -> Rule:
    return Rule.drop(Pattern(as_key(key)), reason)

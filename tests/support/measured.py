"""What the tests share that run transformers' own conversion beside ours."""

from __future__ import annotations

import pytest
import transformers

from support.models import randomise

__all__ = ["IGNORED", "TEXT", "bert"]

IGNORED = pytest.mark.filterwarnings(
    # transformers announces the end of its Flax models, and uses what JAX has renamed.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:Explicitly requested dtype:UserWarning",
    "ignore:The given NumPy array is not writable:UserWarning",
)

TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
"""Sizes of the smallest BERT and its kin."""


def bert(name="BertModel", **options):
    """A random torch model, and the Flax one beside it without weights."""
    config = transformers.BertConfig(**{**TEXT, **options})
    flax_class = getattr(transformers, f"Flax{name}")
    return randomise(getattr(transformers, name)(config)), flax_class(config, _do_init=False)

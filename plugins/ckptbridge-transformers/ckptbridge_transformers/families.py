"""What differs by model family except layer types: names that only one side has, as rules by model type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge_core import Rule

__all__ = ["rules_for"]

LAYOUTS = ("torch", "flax")


def _computed(names: str) -> Rule:
    """Return a rule for a table of positions that torch stores and Flax computes."""
    return Rule.drop(names, "the Flax class computes this table", layouts=LAYOUTS, optional=True)


def _unused(names: str) -> Rule:
    """Return a rule for weights that the torch class has and never uses."""
    return Rule.drop(
        names,
        "the torch class does not use it, and the Flax class does not have it",
        layouts=LAYOUTS,
        optional=True,
    )


RULES: dict[str, tuple[Rule, ...]] = {
    "marian": (_computed("**.embed_positions.weight"),),
    "pegasus": (_computed("**.embed_positions.weight"),),
    "roformer": (_computed("**.embed_positions.weight"),),
    "whisper": (Rule.rename("proj_out.*", "lm_head.*", layouts=LAYOUTS, optional=True),),
}

CLASSES: dict[str, tuple[Rule, ...]] = {
    name: (_unused("**.pooler.*"),)
    for name in ("BigBirdForMaskedLM", "BigBirdForTokenClassification", "BigBirdForCausalLM")
}
"""Rules that only one class needs."""


def _basic_blocks(config: Any) -> tuple[Rule, ...]:
    """Return rules for ResNet's basic blocks; its bottlenecks have the same names on both sides."""
    if config.layer_type != "basic":
        return ()
    block = "**.stages.{s:int}.layers.{n:int}.layer"
    return (
        Rule.rename(f"{block}.{{i:int}}.*.*", f"{block}.layer_{{i:int}}.*.*", layouts=LAYOUTS, optional=True),
    )


def _mask_embedding(config: Any) -> tuple[Rule, ...]:
    """Return a rule for the vector of masked frames, which Flax's Wav2Vec2 has even if none are masked."""
    if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
        return ()
    reason = "the config masks nothing, so torch has no vector for it"
    return (Rule.fill("**.masked_spec_embed", 0.0, reason=reason, layouts=LAYOUTS, optional=True),)


BY_CONFIG: dict[str, Callable[[Any], tuple[Rule, ...]]] = {
    "resnet": _basic_blocks,
    "wav2vec2": _mask_embedding,
}
"""Rules that depend on the config's options."""


def rules_for(config: Any, architecture: str | None = None) -> tuple[Rule, ...]:
    """Return the rules of a model's family, for both directions.

    Args:
        config: The model's config; the rules of the models inside of it are included.
        architecture: Name of the class that the weights are for, with or without ``Flax`` in front; by
            default the first of the config's ``architectures``.
    """
    name = architecture or next(iter(getattr(config, "architectures", None) or ()), "")
    rules = (*RULES.get(config.model_type, ()), *CLASSES.get(name.removeprefix("Flax"), ()))
    if getattr(config, "sinusoidal_pos_embds", False):
        rules += (_computed("**.position_embeddings.weight"),)
    if config.model_type in BY_CONFIG:
        rules += BY_CONFIG[config.model_type](config)
    for part in vars(config).values():
        if hasattr(part, "model_type"):
            rules += rules_for(part)
    return tuple(dict.fromkeys(rules))

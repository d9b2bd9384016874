"""What differs by model family beside layer types: names that only one side has, as rules by model type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge_core import Rule

__all__ = ["rules_for"]

LAYOUTS = ("torch", "flax")


def _computed(names: str) -> Rule:
    """Return a rule for a table of positions that torch keeps and Flax works out."""
    return Rule.drop(names, "the Flax class computes this table", layouts=LAYOUTS, optional=True)


def _unused(names: str) -> Rule:
    """Return a rule for weights that the torch class has and never uses."""
    return Rule.drop(
        names, "the torch class does not use it, the Flax class lacks it", layouts=LAYOUTS, optional=True
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
"""What one class alone needs."""


def _basic_blocks(config: Any) -> tuple[Rule, ...]:
    """ResNet's bottlenecks have one name on both sides; its basic blocks do not."""
    if config.layer_type != "basic":
        return ()
    block = "**.stages.{s:int}.layers.{n:int}.layer"
    return (
        Rule.rename(f"{block}.{{i:int}}.*.*", f"{block}.layer_{{i:int}}.*.*", layouts=LAYOUTS, optional=True),
    )


def _mask_embedding(config: Any) -> tuple[Rule, ...]:
    """torch's Wav2Vec2 has a vector for masked frames if training masks any; the Flax class always has it."""
    if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
        return ()
    reason = "the config masks nothing, so torch keeps no vector for it"
    return (Rule.fill("**.masked_spec_embed", 0.0, reason=reason, layouts=LAYOUTS, optional=True),)


BY_CONFIG: dict[str, Callable[[Any], tuple[Rule, ...]]] = {
    "resnet": _basic_blocks,
    "wav2vec2": _mask_embedding,
}
"""What depends on the config's options."""


def rules_for(config: Any, architecture: str | None = None) -> tuple[Rule, ...]:
    """Return the rules of a model's family, good in both directions.

    Args:
        config: The model's config. Models inside of it count, too.
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

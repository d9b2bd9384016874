"""Rules between the names of diffusers' torch models and those of its Flax models.

diffusers has removed its Flax models, so its Flax checkpoints have no other way back. The rules are data, in
the rule files next to this module. LoRA weights have other names, and are not covered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridge_core import Rule, load_rules

__all__ = ["RULE_FILE", "diffusers_rules", "is_diffusers"]

RULE_FILE = Path(__file__).with_name("diffusers.toml")
"""The rules with torch's current names; `diffusers_rules` knows the deprecated ones, too."""

_DEPRECATED = Path(__file__).with_name("diffusers_deprecated.toml")
_CLASSES = ("AutoencoderKL", "ControlNetModel", "UNet2DConditionModel")


def diffusers_rules(*, deprecated_attention: bool = False) -> tuple[Rule, ...]:
    """Return the rules for diffusers' UNet2DConditionModel, AutoencoderKL and ControlNetModel.

    The rules work in both directions and need no template. Layers may have a prefix such as ``unet.`` or
    ``vae.``; other evidence decides the layers that no rule names.

    Args:
        deprecated_attention: Which names torch has for the attention of a VAE on the way from Flax:
            ``query``, ``key``, ``value`` and ``proj_attn``, or the current ``to_q``, ``to_k``, ``to_v`` and
            ``to_out.0``. From torch, both are read.

    Raises:
        RuleError: A rule file of this distribution was changed, and is not well formed.
    """
    current, deprecated = load_rules(RULE_FILE), load_rules(_DEPRECATED)
    twofold = {rule.targets for rule in deprecated}
    shared = [rule for rule in current if rule.targets not in twofold]
    written = [rule for rule in current if rule.targets in twofold]
    read = list(deprecated)
    if deprecated_attention:
        written, read = read, written
    # A rule without layouts is not inverted on the way back, and its names appear only in torch.
    return (*shared, *written, *(replace(rule, layouts=None) for rule in read))


def is_diffusers(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is that of a model that the rules cover, of either framework."""
    name = config.get("_class_name")
    return isinstance(name, str) and name.removeprefix("Flax") in _CLASSES

"""The names of diffusers' models: torch's against those of its Flax models, as rules.

diffusers has removed its Flax models, so its checkpoints of that time have no other way back. The rules are
data, in the rule files beside this module. LoRA weights have names of their own, and are not covered.
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

    They are good both ways and need no template. Layers may stand below a prefix such as ``unet.`` or
    ``vae.``; what they do not name is left to other evidence.

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
    # A rule without layouts is read as it stands on either way, and finds such names in torch alone.
    return (*shared, *written, *(replace(rule, layouts=None) for rule in read))


def is_diffusers(config: Mapping[str, Any]) -> bool:
    """Tell whether a ``config.json`` is that of a model, of either framework, that the rules are about."""
    name = config.get("_class_name")
    return isinstance(name, str) and name.removeprefix("Flax") in _CLASSES

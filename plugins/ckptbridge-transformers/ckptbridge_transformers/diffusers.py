"""Which recipe is for a folder of diffusers, and the rules of all of them.

diffusers has removed its Flax models, so its Flax checkpoints have no other way back. LoRA weights have other
names, and are not covered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bridge_core import MissingDependency, Registry, Rule, default_registry
from bridge_core.rules import Pattern

__all__ = ["diffusers_recipe", "diffusers_rules", "RECIPES"]

RECIPES = {
    "UNet2DConditionModel": "diffusers-unet",
    "ControlNetModel": "diffusers-controlnet",
    "AutoencoderKL": "diffusers-vae",
}
"""Class of a model -> the recipe for it."""

_NAMINGS = re.compile(r"\{([\w.]+)\|([\w.]+)\}")
"""The current and the deprecated name of a layer of torch."""


def diffusers_rules(
    *, deprecated_attention: bool = False, registry: Registry | None = None
) -> tuple[Rule, ...]:
    """Return the rules for diffusers' UNet2DConditionModel, AutoencoderKL and ControlNetModel.

    They are those of the recipes, for models with or without a prefix such as ``unet.`` or ``vae.``, and
    need not match anything. They work in both directions and need no template; other evidence decides the
    layers that no rule names.

    Args:
        deprecated_attention: Which names torch has for the attention of a VAE on the way from Flax:
            ``query``, ``key``, ``value`` and ``proj_attn``, or the current ``to_q``, ``to_k``, ``to_v`` and
            ``to_out.0``. From torch, both are read.
        registry: Plugins; by default everything installed.

    Raises:
        MissingDependency: The recipes are not installed.
        RuleError: A recipe was changed, and is not well formed.
    """
    registry = default_registry() if registry is None else registry
    rules: dict[str, Rule] = {}
    for name in RECIPES.values():
        if name not in registry.recipes:
            raise MissingDependency(
                f"diffusers_rules() needs the recipe {name!r}, which is not installed.",
                hint="Run: pip install ckptbridge-recipes",
            )
        for rule in registry.recipe(name).rules():
            for new in _below_any_prefix(rule, deprecated_attention):
                rules.setdefault(str(new.source), new)
    # A rule for "conv_in" below any prefix is one for "encoder.conv_in", too.
    names = set(rules)
    return tuple(rule for text, rule in rules.items() if names.isdisjoint(_shorter(text)))


def _shorter(pattern: str) -> Iterator[str]:
    """Yield the patterns for the ends of the names that a pattern is for."""
    parts = pattern.removeprefix("**.").split(".")
    for start in range(1, len(parts)):
        yield ".".join(("**", *parts[start:]))


def _below_any_prefix(rule: Rule, deprecated: bool) -> Iterator[Rule]:
    """Yield the rule, once for each name that torch has for its layer."""
    target = Pattern.parse(f"**.{rule.targets[0]}")
    source = f"**.{rule.source}"
    names = _NAMINGS.search(source)
    written = names[2 if deprecated else 1] if names else ""
    for name in names.groups() if names else ("",):
        pattern = Pattern.parse(_NAMINGS.sub(name, source))
        # A rule without layouts is not inverted on the way back, and its names appear only in torch.
        layouts = rule.layouts if name == written else None
        yield replace(rule, sources=(pattern,), targets=(target,), optional=True, layouts=layouts)


def diffusers_recipe(config: Mapping[str, Any]) -> str | None:
    """Return the recipe for the model of a ``config.json``, of either framework; None if there is none."""
    name = config.get("_class_name")
    return RECIPES.get(name.removeprefix("Flax")) if isinstance(name, str) else None

"""Mamba2 of transformers and mamba2-jax: names by hand. proofs/test_mamba2.py compares the outputs."""

import pytest
from support.mamba2_names import SIZES, by_hand, model
from support.rule_proofs import RECIPES, arrays

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample


@pytest.mark.slow
class TestMamba2(RecipeContract):
    recipe = load_recipe(RECIPES / "mamba2-jax.toml")

    def samples(self):
        made = model()
        config = {**made.config.to_diff_dict(), "n_groups": SIZES["n_groups"]}
        weights = arrays(made)
        for head in (True, False):
            left = {name: value for name, value in weights.items() if head or name != "lm_head.weight"}
            tree = by_hand(left)
            optional = {name for name in (*left, *tree) if "lm_head" in name or name.endswith("bias")}
            yield RecipeSample(
                source=left,
                target=tree,
                source_config=config,
                may_lack=frozenset(optional - {name for name in optional if "dt_bias" in name}),
                name=f"head {head}",
            )

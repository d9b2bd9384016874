"""What is wrong about recipes: one is needed, or the checkpoint does not fit the one that was given."""

from __future__ import annotations

from dataclasses import dataclass

from bridge_core.errors import BridgeError, RecipeRequired, RuleError

__all__ = ["RecipeProblem"]


@dataclass(frozen=True)
class RecipeProblem:
    """A problem with recipes.

    Args:
        text: What is wrong, as a sentence, or with a line for each case.
        hint: What to do.
        needed: The recipes of which one is needed; empty if the problem is with the one that was given.
    """

    text: str
    hint: str
    needed: tuple[str, ...] = ()

    def error(self) -> BridgeError:
        """Return the error."""
        if not self.needed:
            return RuleError(self.text, hint=self.hint)
        options = tuple(f"--recipe {name}" for name in self.needed)
        return RecipeRequired(self.text, hint=self.hint, options=options)

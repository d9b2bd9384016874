"""The contract of a framework adapter: objects are read exactly, built as they were, never changed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from bridge_core.errors import BridgeError
from bridge_core.plugins import Framework
from bridge_core.resolve import plan_from_neutral, plan_to_neutral
from bridge_core.state import Key, TensorSpec
from bridge_core.testing.framework_reading import FrameworkReading
from bridge_core.testing.framework_structure import FrameworkStructure
from bridge_core.testing.framework_values import FrameworkValues
from bridge_core.testing.live_objects import FOREIGN, answers_yes, shown_key
from bridge_core.testing.strategies import same_bits

__all__ = ["FrameworkContract"]

_ROW = TensorSpec((4,), np.dtype("float32"))
_GRID = TensorSpec((4, 3), np.dtype("float32"))
_NAMES: Mapping[str, Mapping[Key, TensorSpec]] = {
    "a state dict of torch": {
        ("layers", "0", "weight"): _GRID,
        ("layers", "0", "bias"): _ROW,
        ("norm", "weight"): _ROW,
        ("norm", "running_mean"): _ROW,
        ("norm", "running_var"): _ROW,
    },
    "variables of Flax": {
        ("params", "Dense_0", "kernel"): _GRID,
        ("params", "Dense_0", "bias"): _ROW,
        ("batch_stats", "BatchNorm_0", "mean"): _ROW,
    },
    "parameters of Flax": {("Dense_0", "kernel"): _GRID, ("Embed_0", "embedding"): _GRID},
}
"""Names that each belong to one framework, as in files."""


class FrameworkContract(FrameworkReading, FrameworkValues, FrameworkStructure):
    """Subclass it as ``Test...``, set ``framework`` and give it live objects.

    Attributes:
        framework: The adapter under test.
        registry: Where it is registered, with the transforms of its layers; by default everything installed.
    """

    # Declarations

    def test_is_a_framework_with_usable_declarations(self) -> None:
        """Its name is that of its layout, and its default format is installed."""
        framework, registry = self.framework, self._registry()
        assert isinstance(framework, Framework), f"{type(framework).__name__} does not have all of Framework"
        assert framework.name, "the framework has no name"
        assert registry.frameworks.get(framework.name) is not None, (
            f"{framework.name!r} is not registered: return it from bridge_frameworks, or set registry="
        )
        assert framework.default_format in registry.formats, (
            f"default_format={framework.default_format!r} is not an installed format; there are "
            f"{', '.join(registry.formats)}"
        )
        for name, roles in framework.collections.items():
            assert isinstance(roles, tuple), (
                f"collections[{name!r}]: expected a tuple of roles, got {roles!r}"
            )

    # Recognising

    def test_accepts_its_own_objects_and_no_others(self) -> None:
        """And no other adapter takes them for its own."""
        others = [f for f in self._registry().frameworks.values() if f.name != self.framework.name]
        for value in (*self.samples(), *self.abstract()):
            assert self.framework.accepts(value), f"a {type(value).__name__} of samples() is not accepted"
            takers = [f.name for f in others if answers_yes(f.accepts, value)]
            assert not takers, f"a {type(value).__name__} is accepted by {', '.join(takers)} as well"
        classes = [type(value) for value in self.samples()]
        for value in (*FOREIGN, *classes, *self.foreign()):
            taken = answers_yes(self.framework.accepts, value)  # pytest would look into the value itself
            assert not taken, (
                f"`accepts` is true for {value!r}, which holds no weights of {self.framework.name}: test for "
                "the type, and for arrays in it"
            )

    def test_owns_no_names_of_others(self) -> None:
        """A framework does not own the names of another, or of an empty state.

        Names that two frameworks own determine nothing.
        """
        owns, name = self.framework.owns, self.framework.name
        others = [f for f in self._registry().frameworks.values() if f.name != name]
        assert not answers_yes(owns, {}), "`owns` is true for a state without tensors: require a name"
        for _, state in self._states():
            specs = state.specs()
            try:
                own = owns(specs)
            except Exception as err:
                pytest.fail(f"`owns` raised {type(err).__name__}: {err} for names of a sample: return a bool")
            takers = [f.name for f in others if own and answers_yes(f.owns, specs)]
            assert not takers, f"the names of a sample are owned by {', '.join(takers)} as well"
        for what, names in _NAMES.items():
            takers = [f.name for f in others if answers_yes(f.owns, names)]
            assert not (takers and answers_yes(owns, names)), (
                f"`owns` is true for the names of {what}, which {', '.join(takers)} owns: then the layout of "
                "such files is not known any more. Look for names that only this framework has"
            )

    # Converting

    def test_objects_come_back_from_neutral_form_bit_for_bit(self) -> None:
        """With the object as evidence and as the template."""
        registry = self._registry()
        for value, state in self._states():
            state = state.replace(layout=self.framework.name)
            what = f"a {type(value).__name__}"
            try:
                neutral = plan_to_neutral(state, registry).apply(state)
                back = plan_from_neutral(neutral, registry, self.framework.name, like=state).apply(neutral)
            except BridgeError as err:
                hint = "give the types of its modules in metadata.modules, and a transform for each layer"
                pytest.fail(f"{what} cannot be converted to neutral form and back: {err} {hint}")
            for key in state:
                assert key in back, f"{shown_key(key)} of {what} did not come back from neutral form"
                value_back = np.asarray(back[key])
                assert same_bits(value_back, np.asarray(state[key])), (
                    f"{shown_key(key)} of {what} came back changed from neutral form"
                )

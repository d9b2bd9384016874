"""What the contract of primitives does: it compiles ops, runs them and compares bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from bridge_core.errors import BridgeError, UnsupportedFeature
from bridge_core.ops import ArrayOps
from bridge_core.plan import CompiledPlan, Plan, Step, compile_plan
from bridge_core.state import DTYPES, Array, Key, TensorSpec
from bridge_core.testing.op_cases import Case
from bridge_core.testing.strategies import same_bits

__all__ = ["ArrayOpsHarness", "bits_difference", "named", "plan_of", "together"]

_Arrays = Mapping[str, Any]


class ArrayOpsHarness(ABC):
    """The primitives under test, and what its tests do with them."""

    framework: Any
    dtypes: Collection[str] = ("float32",)

    @abstractmethod
    def to_live(self, array: Array) -> Any:
        """Return an array of the framework with the shape, the dtype and the bits of one of numpy."""

    @abstractmethod
    def to_numpy(self, array: Any) -> Array:
        """Return what an array of the framework holds, in the dtype of the same name."""

    @abstractmethod
    def samples(self) -> Iterable[Any]:
        """Return objects with arrays, of every type that a compiled plan should take."""

    def forms(self, array: Array) -> Iterable[Any]:
        """Return further arrays with these values that users may pass, such as views."""
        return ()

    def elsewhere(self, array: Array) -> Any:
        """Return an array on another device than the default one; None if there is none.

        It has the shape and the dtype of one of numpy; it may be without values.
        """
        return None

    def device(self, array: Any) -> Any:
        """Return the device of an array; needed with `elsewhere`."""
        return None

    def compiled(self, function: Callable[[_Arrays], _Arrays]) -> Callable[[_Arrays], _Arrays]:
        """Return a function of named arrays as users run it, such as ``jax.jit(function)``."""
        return function

    def _ops(self) -> ArrayOps:
        ops: ArrayOps = self.framework.array_ops()
        return ops

    def _taken_dtypes(self) -> list[str]:
        """Return the dtypes that the primitives take."""
        return [name for name in DTYPES if self._refusal(name) is None]

    def _refusal(self, name: str) -> Exception | None:
        """Return how the primitives refuse a dtype; None if they take it."""
        try:
            self._ops().traced(lambda near, arrays: arrays, (TensorSpec((2, 3), DTYPES[name]),))
        except Exception as err:
            return err
        return None

    def _check(self, cases: Iterable[Case], advice: str, *, may_refuse: bool = False) -> None:
        """Check that ops give numpy's bits, or that they are refused when the plan is compiled.

        Args:
            cases: The ops.
            advice: What to change if they do not.
            may_refuse: Whether they may be refused.
        """
        functions = [(case, self._function(case, advice, may_refuse)) for case in cases]
        made = [(case, function) for case, function in functions if function is not None]
        for (case, _), results in zip(made, self._results(made, advice), strict=True):
            for name, expected in applied(case).items():
                difference = bits_difference(results[name], expected)
                assert not difference, f"{case}: {difference}: {advice}"

    def _function(self, case: Case, advice: str, may_refuse: bool) -> CompiledPlan | None:
        """Return the ops as a function; None if they are refused by name."""
        try:
            return compile_plan(plan_of(case), self._ops(), skip_checks=True)
        except UnsupportedFeature as err:
            if not may_refuse:
                pytest.fail(f"{case} is refused: {err} {advice}")
            if not any(str(op) in err.message for op in case.chain):
                pytest.fail(
                    f"{case} is refused without the name of the op: {err} Let `traced` pass errors on"
                )
            return None
        except Exception as err:
            pytest.fail(
                f"{case}: compiling it raised {type(err).__name__}: {err} Raise UnsupportedFeature for what "
                f"the framework cannot compute. {advice}"
            )

    def _results(self, made: Sequence[tuple[Case, CompiledPlan]], advice: str) -> list[dict[str, Array]]:
        """Run the functions as one, and return the results of each by name."""
        try:
            results = self.compiled(together([function for _, function in made]))(self._live(made))
            return [
                {name: self.to_numpy(results[f"{number}.{name}"]) for name in function.targets}
                for number, (_, function) in enumerate(made)
            ]
        except Exception as err:
            if len(made) > 1:
                return [results for one in made for results in self._results([one], advice)]
            pytest.fail(
                f"{made[0][0]}: running it raised {type(err).__name__}: {err} Refuse what cannot be computed "
                f"with UnsupportedFeature, while `traced` runs. {advice}"
            )

    def _live(self, made: Sequence[tuple[Case, CompiledPlan]]) -> dict[str, Any]:
        """Return the arrays of cases for their functions as one; none of them is shared."""
        return {
            f"{number}.{name}": self.to_live(array)
            for number, (case, _) in enumerate(made)
            for name, array in named(case).items()
        }

    def _opened(self, sample: Any) -> Mapping[str, Array]:
        """Return the arrays of an object as a compiled plan returns them unchanged."""
        state = self.framework.state(sample)
        steps = tuple(Step((key,), (key,)) for key in state)
        plan = Plan("neutral", "neutral", state.specs(), steps, branches=state.metadata.left_out)
        try:
            results = compile_plan(plan, self._ops())(sample)
        except BridgeError as err:
            pytest.fail(
                f"a {type(sample).__name__} is not taken by a plan that copies its arrays: {err} Let "
                "`opened` return its children as a mapping, by the names that `state` gives them"
            )
        return {name: self.to_numpy(array) for name, array in results.items()}


def named(case: Case) -> dict[str, Array]:
    """Return the arrays of a case by the names of their sources."""
    return {str(number): array for number, array in enumerate(case.arrays)}


def plan_of(case: Case) -> Plan:
    """Return a plan of one step: from sources ``0``, ``1``, ... to targets of such names."""
    sources: dict[Key, TensorSpec] = {
        (name,): TensorSpec(array.shape, array.dtype) for name, array in named(case).items()
    }
    count = len(case.arrays)
    for op in case.chain:
        count = op.outputs(count)
    targets = tuple((str(number),) for number in range(count))
    return Plan("neutral", "neutral", sources, (Step(tuple(sources), targets, case.chain),))


def applied(case: Case) -> dict[str, Array]:
    """Return what `Plan.apply` makes of a case, by name."""
    with np.errstate(all="ignore"):
        state = plan_of(case).apply({(name,): array for name, array in named(case).items()})
        return {".".join(key): np.asarray(state[key]) for key in state}


def bits_difference(found: Any, expected: Array) -> str:
    """Return how an array differs from the expected one; empty if the bits are equal."""
    if not isinstance(found, np.ndarray):
        return f"`to_numpy` of the test returned a {type(found).__name__}"
    spec, got = TensorSpec(expected.shape, expected.dtype), TensorSpec(found.shape, found.dtype)
    if spec != got:
        return f"expected {spec}, got {got}"
    if same_bits(found, expected):
        return ""
    right, wrong = (np.ascontiguousarray(a).reshape(-1, 1).view(np.uint8) for a in (expected, found))
    places = np.flatnonzero((right != wrong).any(axis=1))
    bits = [values[places[0]][::-1].tobytes().hex() for values in (right, wrong)]
    return (
        f"{places.size} of {spec.size} elements differ; the first, at the flat index {places[0]}, should "
        f"have the bits 0x{bits[0]} and has 0x{bits[1]}"
    )


def together(functions: Sequence[CompiledPlan]) -> Callable[[_Arrays], _Arrays]:
    """Return one function of several; names of the first have ``0.`` before them, and so on."""

    def run(arrays: _Arrays) -> _Arrays:
        results = {}
        for number, function in enumerate(functions):
            given = {key: arrays[f"{number}.{'.'.join(key)}"] for key in function.sources}
            results.update({f"{number}.{name}": array for name, array in function(given).items()})
        return results

    return run

"""The contract of primitives for live arrays: numpy's bits, or a refusal by name."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from bridge_core.errors import UnsupportedFeature, UsageError
from bridge_core.messages import listed
from bridge_core.ops import ArrayOps, Flip, InsertZeros, Pad, Permute
from bridge_core.plan import compile_plan
from bridge_core.plugins import ComputesPlans
from bridge_core.state import DTYPES, TensorSpec, is_floating
from bridge_core.testing.array_ops_harness import ArrayOpsHarness, bits_difference, named, plan_of, together
from bridge_core.testing.op_cases import (
    Case,
    casts,
    choices,
    constants,
    moves,
    products,
    round_trips,
    small_shapes,
    sums,
)

__all__ = ["ArrayOpsContract"]

_NOT_ARRAYS = (None, True, 3, 2.5, "text", [1.0, 2.0], {"a": 1.0}, object(), len)
_SHAPES = ((2, 3), (), (0, 3))
_HUGE = TensorSpec((1 << 40, 1 << 18), np.dtype("float32"))
"""More bytes than any machine has."""


class ArrayOpsContract(ArrayOpsHarness):
    """Subclass it as ``Test...``, set ``framework`` and give it arrays and objects.

    Every op is compiled and run on every dtype that the primitives take, and compared with `Plan.apply`.

    Attributes:
        framework: The adapter under test, with the method of `bridge_core.plugins.ComputesPlans`.
        dtypes: Names of the dtypes that the primitives must take; the others may be refused.
    """

    # Declarations

    def test_the_adapter_has_every_primitive(self) -> None:
        """And the primitives have the adapter's name, for messages."""
        framework: Any = self.framework
        assert isinstance(framework, ComputesPlans), (
            f"{type(framework).__name__} does not have the method array_ops of ComputesPlans"
        )
        ops, name = self._ops(), self.framework.name
        missing = [
            method for method in vars(ArrayOps) if method[0] != "_" and getattr(ops, method, None) is None
        ]
        assert not missing, f"`array_ops` returned a {type(ops).__name__} without {listed(missing)}"
        assert ops.framework == name, (
            f"the primitives are those of {ops.framework!r}, and the adapter is {name!r}"
        )

    def test_dtypes_are_taken_or_refused_by_name(self) -> None:
        """Those of ``dtypes`` are taken."""
        unknown = [name for name in self.dtypes if name not in DTYPES]
        assert not unknown, f"dtypes names {listed(unknown)}, which the bridge does not have"
        for name in DTYPES:
            error = self._refusal(name)
            if error is None:
                continue
            assert isinstance(error, UnsupportedFeature), (
                f"`traced` of a {name} array raised {type(error).__name__}: {error} Raise UnsupportedFeature"
            )
            assert name in error.message, f"the refusal of {name} does not name it: {error}"
            assert name not in self.dtypes, f"dtypes names {name}, which is refused: {error}"

    # Arrays

    def test_arrays_have_their_specs(self) -> None:
        """Shape and dtype; what is not an array is refused as a mistake of the caller."""
        ops = self._ops()
        for name in self._taken_dtypes():
            for shape in _SHAPES:
                array = np.ones(shape, DTYPES[name])
                spec, live = TensorSpec(shape, DTYPES[name]), self.to_live(array)
                difference = bits_difference(self.to_numpy(live), array)
                assert not difference, f"`to_numpy(to_live(array))` of the test for {spec}: {difference}"
                got = ops.spec(live)
                assert got == spec, f"`spec` of an array {spec}: expected {spec}, got {got!r}"
        for value in _NOT_ARRAYS:
            error = _error_of(ops.spec, value)
            assert type(error) is UsageError, (
                f"`spec` of {value!r}: expected UsageError, got {type(error).__name__}: {error}"
            )

    def test_every_form_of_an_array_is_taken(self) -> None:
        """Views, and whatever else ``forms`` returns, have the results of their values."""
        values = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
        case = Case((Permute((1, 0)),), (values,))
        function = compile_plan(plan_of(case), self._ops())
        for form in (self.to_live(values), *self.forms(values)):
            difference = bits_difference(self.to_numpy(function({"0": form})["0"]), values.T)
            assert not difference, (
                f"{case}, given as a {type(form).__name__}: {difference}: let `taken` return an "
                "array that holds the values themselves"
            )

    def test_containers_are_opened(self) -> None:
        """Into the names that the adapter gives their tensors; an array is returned unchanged."""
        samples = list(self.samples())
        assert samples, "samples() gives nothing to test with"
        for sample in samples:
            state, arrays = self.framework.state(sample), self._opened(sample)
            for key in state:
                difference = bits_difference(arrays[".".join(key)], np.asarray(state[key]))
                assert not difference, f"{'.'.join(key)} of a {type(sample).__name__}: {difference}"
        live = self.to_live(np.ones(2, np.float32))
        assert self._ops().opened(live) is live, "`opened` of an array does not return it"

    # Tracing

    def test_tracing_needs_no_values(self) -> None:
        """Specs of any size; what the function raises is passed on."""
        ops = self._ops()
        turned = TensorSpec(_HUGE.shape[::-1], _HUGE.dtype)
        try:
            results = ops.traced(lambda near, arrays: (near.transpose(arrays[0], (1, 0)), *arrays), (_HUGE,))
        except Exception as err:
            raise AssertionError(
                f"`traced` of {_HUGE} raised {type(err).__name__}: {err} Make arrays without values"
            ) from err
        assert tuple(results) == (turned, _HUGE), (
            f"`traced`: expected {turned} and {_HUGE}, got {listed(map(str, results))}"
        )
        assert isinstance(results, tuple), f"`traced`: expected a tuple, got a {type(results).__name__}"
        refusal = UnsupportedFeature("refused")

        def refuse(near: ArrayOps, arrays: tuple[Any, ...]) -> Any:
            raise refusal

        error = _error_of(ops.traced, refuse, ())
        assert error is refusal, f"`traced` does not pass on what the function raises: got {error!r}"

    # Values

    def test_moves_change_no_bit(self) -> None:
        """NaNs with payloads, denormal numbers and signed zeros included; none may be refused."""
        self._check(
            [case for name in self._taken_dtypes() for case in moves(name)],
            "`transpose`, `reshape`, `flip`, `part` and `concatenate` move elements of every dtype; where "
            "the framework changes NaNs or has no such function, move integers of the same width",
        )

    def test_constants_have_their_bits(self) -> None:
        """Signed zeros, NaNs and denormal numbers included; none may be refused."""
        self._check(
            [case for name in self._taken_dtypes() for case in constants(name)],
            "`full` has the bits of its value, the sign of a zero included",
        )

    def test_casts_round_as_numpy(self) -> None:
        """Halfway cases, numbers out of range, and the bits of NaNs; or they are refused."""
        names = self._taken_dtypes()
        for source in names:
            self._check(
                casts(source, names),
                "round to nearest even, give NaNs the bits of `bridge_core.ops.nan_rule`, or raise "
                "UnsupportedFeature in `cast`",
                may_refuse=True,
            )

    def test_sums_round_as_numpy(self) -> None:
        """In the order of the terms, near zero and with NaNs; or they are refused."""
        for name in self._floating():
            self._check(
                sums(name),
                "round each sum to the dtype, give NaNs the bits of `bridge_core.ops.sum_rule`, or raise "
                "UnsupportedFeature in `add`",
                may_refuse=True,
            )

    def test_products_round_as_numpy(self) -> None:
        """Quotients, too, near zero and with NaNs; or they are refused."""
        for name in self._floating():
            self._check(
                products(name),
                "divide where `divides` is set, round once, or raise UnsupportedFeature in `scale`",
                may_refuse=True,
            )

    def test_every_op_of_a_chain_rounds(self) -> None:
        """Also where the next one makes the number wider again."""
        names = self._floating()
        for source in names:
            self._check(
                round_trips(source, names),
                "where a compiler leaves out a cast there and back, let it compute with the bits in between",
                may_refuse=True,
            )

    def test_elements_are_chosen_by_their_bits(self) -> None:
        """A negative zero is not a positive one, and NaNs may be equal; none may be refused."""
        self._check(
            [case for name in self._floating() for case in choices(name)],
            "`choose` compares the bits as integers, and `constant` has the bits of the array",
        )

    def test_tensors_without_axes_and_without_elements_are_computed(self) -> None:
        """By every op, in every dtype."""
        names = self._taken_dtypes()
        self._check(
            [case for name in names for case in small_shapes(name, "float32")],
            "a shape may be empty, and a size may be 0",
            may_refuse=True,
        )

    def test_inputs_are_not_changed(self) -> None:
        """By no primitive: a source may be used again."""
        name, others = "float32", ("float16", "bfloat16")
        cases = [*moves(name), *constants(name), *casts(name, others)]
        functions = []
        for case in (*cases, *sums(name), *products(name), *choices(name)):
            with contextlib.suppress(Exception):  # which is the matter of other tests
                functions.append((case, compile_plan(plan_of(case), self._ops(), skip_checks=True)))
        given = self._live(functions)
        with contextlib.suppress(Exception):
            self.compiled(together([function for _, function in functions]))(given)
        for number, (case, _) in enumerate(functions):
            for key, array in named(case).items():
                difference = bits_difference(self.to_numpy(given[f"{number}.{key}"]), array)
                assert not difference, (
                    f"{case} changed an array that it was given: {difference}: compute new arrays, or "
                    "views that nothing writes to"
                )

    def test_constants_are_on_the_device_of_the_arrays(self) -> None:
        """If there is another device than the default one."""
        array = np.ones((2, 3), np.float32)
        given = self.elsewhere(array)
        for op in (Flip((0,)), Pad(0, 2, 4, 1), InsertZeros((True, False))) if given is not None else ():
            case = Case((op,), (array,))
            for result in compile_plan(plan_of(case), self._ops())({"0": given}).values():
                expected, got = self.device(given), self.device(result)
                assert got == expected, (
                    f"{case}: expected the result on {expected}, got it on {got}: let `near` return "
                    "primitives that make arrays where the given ones are"
                )

    def _floating(self) -> list[str]:
        return [name for name in self._taken_dtypes() if is_floating(DTYPES[name])]


def _error_of(function: Any, *arguments: Any) -> Exception | None:
    """Return what a function raises; None if it returns."""
    try:
        function(*arguments)
    except Exception as err:
        return err
    return None

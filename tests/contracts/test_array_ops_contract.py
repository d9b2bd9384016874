"""The primitives of torch and JAX keep the contract of live arrays, and it notices ways of breaking it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
import torch
from flax import linen, nnx
from support.broken_plugins import check_caught, check_fault, check_healthy, every, fault, parameters
from support.live import from_torch, to_torch
from torch import nn

from bridge_core import FlatState, TensorSpec, UnsupportedFeature, UsageError
from bridge_core.ops import Cast
from bridge_core.state import DTYPES
from bridge_core.testing import ArrayOpsContract
from bridge_flax import FlaxFramework
from bridge_torch import TorchFramework
from bridge_torch.torch_objects.arrays import DTYPES as TORCH_DTYPES

FROM_32_BITS = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16", "float32"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "complex64"),
)


class TestTorch(ArrayOpsContract):
    framework = TorchFramework()
    dtypes = tuple(TORCH_DTYPES)

    def to_live(self, array):
        return to_torch(array)

    def to_numpy(self, array):
        return from_torch(array)

    def samples(self):
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), nn.Linear(2, 3).state_dict()

    def forms(self, array):
        tensor = to_torch(array)
        yield tensor.T.contiguous().T
        yield torch.stack([tensor, tensor], dim=-1)[..., 0]
        yield (-1j * tensor).conj().imag
        yield tensor.requires_grad_()

    def elsewhere(self, array):
        return torch.as_tensor(array).to("meta")

    def device(self, array):
        return array.device


class TestJax(ArrayOpsContract):
    framework = FlaxFramework()
    dtypes = FROM_32_BITS

    def to_live(self, array):
        return jax.numpy.asarray(array)

    def to_numpy(self, array):
        return np.asarray(array)

    def samples(self):
        model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        boxed = linen.Dense(3, kernel_init=linen.with_partitioning(linen.initializers.ones, ("in", "out")))
        return model, nnx.state(model), boxed.init(jax.random.key(0), np.ones((1, 2)))

    def forms(self, array):
        return array, array.astype(">f4"), array.T.copy().T

    def compiled(self, function):
        return jax.jit(function)


@pytest.mark.zoo
class TestJaxOpByOp(TestJax):
    def compiled(self, function):
        return function


@pytest.mark.slow
class TestJaxWith64Bits(TestJax):
    dtypes = (*FROM_32_BITS, "int64", "uint64", "float64", "complex128")

    @pytest.fixture(autouse=True)
    def x64(self):
        with jax.enable_x64(True):
            yield


@dataclass
class Box:
    """An array of a third party: values of numpy, on a device of its own."""

    values: np.ndarray
    device: str = "desk"


@dataclass(frozen=True)
class BoxOps:
    """Primitives that fulfil the contract; each subclass breaks it in one way."""

    device: str = "desk"
    framework: str = "box"

    def opened(self, value):
        return value.children if isinstance(value, Tree) else value

    def taken(self, array):
        return array

    def spec(self, array):
        if not isinstance(array, Box):
            raise UsageError(f"expected a Box, got {type(array).__name__}.")
        return TensorSpec(array.values.shape, array.values.dtype)

    def traced(self, function, specs):
        boxes = (Box(np.broadcast_to(np.zeros((), spec.dtype), spec.shape)) for spec in specs)
        return tuple(self.spec(result) for result in function(self, tuple(boxes)))

    def near(self, arrays):
        return replace(self, device=arrays[0].device) if arrays else self

    def boxed(self, values):
        return Box(np.asarray(values), self.device)

    def transpose(self, array, axes):
        return self.boxed(array.values.transpose(axes))

    def reshape(self, array, shape):
        return self.boxed(array.values.reshape(shape))

    def flip(self, array, axes):
        return self.boxed(np.flip(array.values, axes))

    def part(self, array, axis, start, stop):
        return self.boxed(array.values[(slice(None),) * axis + (slice(start, stop),)])

    def concatenate(self, arrays, axis):
        return self.boxed(np.concatenate([array.values for array in arrays], axis))

    def full(self, shape, value):
        return self.boxed(np.full(shape, value))

    def constant(self, values):
        return self.boxed(values)

    def cast(self, array, dtype):
        return self.boxed(Cast(array.values.dtype.name, dtype.name).apply((array.values,))[0])

    def add(self, first, second):
        with np.errstate(all="ignore"):
            return self.boxed(first.values + second.values)

    def scale(self, array, constant, *, divides):
        with np.errstate(all="ignore"):
            return self.boxed(array.values / constant if divides else array.values * constant)

    def choose(self, first, second, equal, other):
        bits = f"u{first.values.dtype.itemsize}"
        same = first.values.view(bits) == second.values.view(bits)
        return self.boxed(np.where(same, equal.values, other.values))


@dataclass
class Tree:
    children: dict


@dataclass
class Boxes:
    """An adapter of trees of boxes."""

    ops: BoxOps = BoxOps()
    name: str = "box"

    def array_ops(self):
        return self.ops

    def state(self, tree):
        return FlatState({("a", name): box.values for name, box in tree.children["a"].children.items()})


class ForgetsAPrimitive(BoxOps):
    choose = None


class RefusesWithItsOwnError(BoxOps):
    def traced(self, function, specs):
        if any(spec.dtype.name == "float64" for spec in specs):
            raise KeyError("float64")
        return super().traced(function, specs)


class TakesListsForArrays(BoxOps):
    def spec(self, array):
        return super().spec(Box(np.array(array)) if isinstance(array, list) else array)


class OpensNothing(BoxOps):
    def opened(self, value):
        return value


class TracesWithValues(BoxOps):
    def traced(self, function, specs):
        boxes = tuple(Box(np.zeros(spec.shape, spec.dtype)) for spec in specs)
        return tuple(self.spec(result) for result in function(self, boxes))


class HidesRefusals(BoxOps):
    def traced(self, function, specs):
        try:
            return super().traced(function, specs)
        except UnsupportedFeature as err:
            raise UnsupportedFeature("not possible.") from err


class TransposesBack(BoxOps):
    def transpose(self, array, axes):
        return super().transpose(array, np.argsort(axes))


class JoinsThroughFloat32(BoxOps):
    def concatenate(self, arrays, axis):
        if arrays[0].values.dtype.name != "bfloat16":
            return super().concatenate(arrays, axis)
        wide = np.concatenate([array.values.astype(np.float32) for array in arrays], axis)
        return self.boxed(wide.astype(arrays[0].values.dtype))


class RefusesToFlip(BoxOps):
    def flip(self, array, axes):
        raise UnsupportedFeature("arrays cannot be flipped.")


class LosesTheSignOfZero(BoxOps):
    def full(self, shape, value):
        return super().full(shape, value + 0 if value.dtype == np.complex64 else value)


class QuietsNans(BoxOps):
    def cast(self, array, dtype):
        cast = super().cast(array, dtype).values.copy()
        if (array.values.dtype.name, dtype.name) == ("float16", "float64"):
            cast[np.isnan(cast)] = np.nan
        return self.boxed(cast)


class LeavesOutCasts(BoxOps):
    """Casts there and back give the number that was there before."""

    def cast(self, array, dtype):
        wide = getattr(array, "wide", None)
        if wide is not None and wide.values.dtype == dtype:
            return wide
        cast = super().cast(array, dtype)
        cast.wide = array
        return cast


class RaisesWhereItCannotCast(BoxOps):
    def cast(self, array, dtype):
        if dtype.name == "int4":
            raise TypeError("no such cast")
        return super().cast(array, dtype)


class TakesDenormalsForZeros(BoxOps):
    def add(self, first, second):
        total = super().add(first, second).values.copy()
        if total.dtype == np.float32:
            total[np.abs(total) < np.finfo(np.float32).tiny] = 0
        return self.boxed(total)


class AddsFromTheEnd(BoxOps):
    def add(self, first, second):
        return super().add(second, first)


class MultipliesByTheReciprocal(BoxOps):
    def scale(self, array, constant, *, divides):
        return super().scale(array, 1 / constant if divides else constant, divides=False)


class ChoosesEqualNumbers(BoxOps):
    def choose(self, first, second, equal, other):
        return self.boxed(np.where(first.values == second.values, equal.values, other.values))


class NeedsAnAxis(BoxOps):
    def reshape(self, array, shape):
        return super().reshape(array, shape or (1,))


class FlipsInPlace(BoxOps):
    def flip(self, array, axes):
        flipped = super().flip(array, axes)
        array.values = flipped.values
        return flipped


class ForgetsTheDevice(BoxOps):
    def near(self, arrays):
        return self


class BoxContract(ArrayOpsContract):
    framework = Boxes()
    dtypes = tuple(DTYPES)

    def to_live(self, array):
        return Box(array.copy())

    def to_numpy(self, array):
        return array.values

    def samples(self):
        yield Tree({"a": Tree({"b": Box(np.ones(3, "f4")), "c": Box(np.ones((), np.int8))})})

    def elsewhere(self, array):
        return Box(array, "shelf")

    def device(self, array):
        return array.device


MOVES, CONSTANTS = "test_moves_change_no_bit", "test_constants_have_their_bits"
CASTS, SUMS = "test_casts_round_as_numpy", "test_sums_round_as_numpy"
TRACED, SHAPES = (
    "test_tracing_needs_no_values",
    "test_tensors_without_axes_and_without_elements_are_computed",
)
FAULTS = [
    (ForgetsAPrimitive, "test_the_adapter_has_every_primitive", "choose"),
    (RefusesWithItsOwnError, "test_dtypes_are_taken_or_refused_by_name", "float64", "KeyError"),
    (TakesListsForArrays, "test_arrays_have_their_specs", "[1.0, 2.0]", "UsageError"),
    (OpensNothing, "test_containers_are_opened", "Tree", "`opened`"),
    (TracesWithValues, TRACED, "without values"),
    (HidesRefusals, TRACED, "pass on"),
    (TransposesBack, MOVES, "permute([2, 0, 1])", "`transpose`"),
    (JoinsThroughFloat32, MOVES, "bfloat16", "`concatenate`"),
    (RefusesToFlip, MOVES, "flip([0])", "is refused"),
    (LosesTheSignOfZero, CONSTANTS, "complex64", "`full`"),
    (QuietsNans, CASTS, "cast(float16, float64)", "nan_rule"),
    (LeavesOutCasts, "test_every_op_of_a_chain_rounds", "cast(float16, bfloat16)  cast"),
    (RaisesWhereItCannotCast, CASTS, "TypeError", "UnsupportedFeature"),
    (TakesDenormalsForZeros, SUMS, "sum(2) of float32"),
    (AddsFromTheEnd, SUMS, "sum(2)", "sum_rule"),
    (MultipliesByTheReciprocal, "test_products_round_as_numpy", "scale(1 / 0.3", "`divides`"),
    (ChoosesEqualNumbers, "test_elements_are_chosen_by_their_bits", "splitsum(2", "`choose`"),
    (NeedsAnAxis, SHAPES, "reshape([1], [])"),
    (FlipsInPlace, "test_inputs_are_not_changed", "flip([0])", "new arrays"),
    (ForgetsTheDevice, "test_constants_are_on_the_device_of_the_arrays", "shelf", "`near`"),
]
TWICE = ["ForgetsAPrimitive", "RefusesToFlip"]
TABLE = [
    fault(BoxContract, test, *words, name=broken.__name__, framework=Boxes(broken()))
    for broken, test, *words in FAULTS
]


@pytest.mark.parametrize("one", every(TABLE))
def test_broken_primitives_are_caught(one, tmp_path):
    check_caught(one, tmp_path)


@pytest.mark.parametrize("one", parameters(TABLE, sample=["TransposesBack"], twice=TWICE))
def test_broken_primitives_fail_no_other_test(one, tmp_path):
    check_fault(one, tmp_path)


@pytest.mark.slow
def test_a_strangers_primitives_are_healthy(tmp_path):
    check_healthy(BoxContract, tmp_path, TABLE)
